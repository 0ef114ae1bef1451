run lambda { |env|
  sleep 0.2 if env["PATH_INFO"] == "/slow"
  [200, { "content-type" => "text/plain" }, ["generation #{ENV["HOTSWAP_GENERATION"]}\n"]]
}

require "webrick"
server = WEBrick::HTTPServer.new(BindAddress: "127.0.0.1", Port: 8080, AccessLog: [], Logger: WEBrick::Log.new(File::NULL))
server.mount_proc("/") do |request, answer|
  sleep 0.2 if request.path == "/slow"
  answer.body = "generation #{ENV["HOTSWAP_GENERATION"]}\n"
end
server.start

sub {
    [200, ["Content-Type" => "text/plain"], ["generation $ENV{HOTSWAP_GENERATION}\n"]];
};

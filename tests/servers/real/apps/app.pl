use Mojolicious::Lite -signatures;

my $place = $ENV{XDG_RUNTIME_DIR} // "/tmp";
app->config(hypnotoad => {
    listen   => ["http://127.0.0.1:8080"],
    workers  => 2,
    pid_file => "$place/api-$ENV{HOTSWAP_GENERATION}.pid",
});

my $answer = "generation $ENV{HOTSWAP_GENERATION}\n";
get "/" => { text => $answer };
get "/slow" => sub ($c) {
    $c->render_later;
    Mojo::IOLoop->timer(0.2 => sub { $c->render(text => $answer) });
};
app->start;

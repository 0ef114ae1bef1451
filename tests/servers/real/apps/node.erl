% A process for each connection. Nothing of it stops gracefully.
-module(node).
-export([start/0]).

start() ->
    spawn(fun() ->
        Options = [binary, {active, false}, {reuseaddr, true}, {packet, http_bin}, {ip, {127, 0, 0, 1}}, {backlog, 1024}],
        {ok, Listener} = gen_tcp:listen(8080, Options),
        accept(Listener, ["generation ", os:getenv("HOTSWAP_GENERATION"), "\n"])
    end).

accept(Listener, Body) ->
    {ok, Socket} = gen_tcp:accept(Listener),
    Pid = spawn(fun() -> receive go -> answer(Socket, Body) end end),
    ok = gen_tcp:controlling_process(Socket, Pid),
    Pid ! go,
    accept(Listener, Body).

answer(Socket, Body) ->
    case gen_tcp:recv(Socket, 0) of
        {ok, http_eoh} ->
            Head = io_lib:format("HTTP/1.1 200 OK\r\nContent-Length: ~b\r\n\r\n", [iolist_size(Body)]),
            ok = gen_tcp:send(Socket, [Head, Body]),
            answer(Socket, Body);
        {ok, _} -> answer(Socket, Body);
        _ -> gen_tcp:close(Socket)
    end.

package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

// With "shutdown" it ends as the manual of net/http shows it; else it dies when told to.
func main() {
	network, address := "tcp", "127.0.0.1:8080"
	graceful := false
	for _, argument := range os.Args[1:] {
		if argument == "shutdown" {
			graceful = true
		} else {
			network, address = "unix", strings.TrimPrefix(argument, "unix:")
			os.Remove(address)
		}
	}
	var listener net.Listener
	var err error
	if os.Getenv("LISTEN_FDS") != "" {
		listener, err = net.FileListener(os.NewFile(3, "listener"))
	} else {
		listener, err = net.Listen(network, address)
	}
	if err != nil {
		panic(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			time.Sleep(200 * time.Millisecond)
		}
		fmt.Fprintf(w, "generation %s\n", os.Getenv("HOTSWAP_GENERATION"))
	})}
	if !graceful {
		panic(server.Serve(listener))
	}
	go server.Serve(listener)
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	<-stop
	if err := server.Shutdown(context.Background()); err != nil {
		panic(err)
	}
}

// Servers of the kinds that replace themselves, as they are found in the wild: each has its own way to be a child.
//
//	child     CHILD=1 and descriptor 3, forks on SIGHUP, the child tells its parent to stop
//	graceful  _GRACEFUL_RESTART=true and descriptor 3, the same, when it has served for a moment
//	grace     LISTEN_FDS and descriptor 3, tells its parent to stop if it inherited
//	endless   its own variable and descriptor 3, tells its parent to stop
//	asking    asks a master on a unix socket for its listener in JSON, and listens itself if there is none
//	worker    no port: jobs in process groups of their own, which it finishes before it ends
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

var variables = map[string]string{
	"child":    "CHILD=1",
	"graceful": "_GRACEFUL_RESTART=true",
	"grace":    "LISTEN_FDS=1",
	"endless":  "ENDLESS_CONTINUE=1",
}

func isChild(style string) bool {
	for _, variable := range os.Environ() {
		if variable == variables[style] {
			return true
		}
	}
	return false
}

func listen(style string) (net.Listener, error) {
	if style == "asking" {
		if len(os.Args) > 2 {
			return ask(os.Args[2])
		}
		if listener, err := ask("master.sock"); err == nil {
			return listener, nil
		}
	} else if isChild(style) {
		return net.FileListener(os.NewFile(3, "listener"))
	}
	return net.Listen("tcp", "127.0.0.1:"+os.Getenv("PORT"))
}

func ask(path string) (net.Listener, error) {
	master, err := net.Dial("unix", path)
	if err != nil {
		return nil, err
	}
	defer master.Close()
	if err := json.NewEncoder(master).Encode(map[string]string{"action": "get_listener"}); err != nil {
		return nil, err
	}
	var answer struct{ Descriptor uintptr }
	if err := json.NewDecoder(master).Decode(&answer); err != nil {
		return nil, err
	}
	return net.FileListener(os.NewFile(answer.Descriptor, "listener"))
}

func fork(style string, listener net.Listener) error {
	file, err := listener.(*net.TCPListener).File()
	if err != nil {
		return err
	}
	child := exec.Command(os.Args[0], os.Args[1:]...)
	child.Env = append(os.Environ(), variables[style])
	child.ExtraFiles = []*os.File{file}
	return child.Start()
}

func serve(style string, signals chan os.Signal) {
	listener, err := listen(style)
	if err != nil {
		panic(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(answer http.ResponseWriter, request *http.Request) {
		if ms, err := strconv.Atoi(request.URL.Query().Get("ms")); err == nil {
			time.Sleep(time.Duration(ms) * time.Millisecond)
		}
		fmt.Fprintf(answer, "hello from %s, generation %s\n", style, os.Getenv("HOTSWAP_GENERATION"))
	})}
	go server.Serve(listener)
	if isChild(style) && os.Getppid() != 1 {
		if style == "graceful" {
			time.Sleep(50 * time.Millisecond)
		}
		syscall.Kill(os.Getppid(), syscall.SIGTERM)
		fmt.Fprintln(os.Stderr, "told its parent to stop")
	}
	for signal := range signals {
		if signal != syscall.SIGHUP {
			break
		}
		if err := fork(style, listener); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
	server.Shutdown(context.Background())
}

func work(journal string, signals chan os.Signal) {
	for number := 1; ; number++ {
		select {
		case <-signals:
			return
		default:
		}
		name := fmt.Sprintf("%s.%d", os.Getenv("HOTSWAP_GENERATION"), number)
		job := exec.Command("sh", "-c", fmt.Sprintf("echo begin %s >>%s; sleep 0.4; echo end %s >>%s", name, journal, name, journal))
		job.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if err := job.Run(); err != nil {
			panic(err)
		}
	}
}

func main() {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	if os.Args[1] == "worker" {
		work(os.Args[2], signals)
	} else {
		serve(os.Args[1], signals)
	}
}

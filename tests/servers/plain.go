// A plain Go server: what it is told, and no handler for any signal.
package main

import (
	"fmt"
	"log"
	"net/http"
	"os"
	"strings"
	"time"
)

func main() {
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/slow") {
			time.Sleep(300 * time.Millisecond)
		}
		fmt.Fprintln(w, "hello")
	})
	log.Fatal(http.ListenAndServe(os.Args[1], nil))
}

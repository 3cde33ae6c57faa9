// Go net/http: a goroutine for each connection, calls through a shared client; with CLIENT=h2 over one connection; with
// WORKERS=on by goroutines that are started when none is free, and then work for everybody.
package main

import (
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

var (
	backend = os.Getenv("BACKEND")
	client  = &http.Client{Transport: transport(0)}
	few     = &http.Client{Transport: transport(4)}
	workers = os.Getenv("WORKERS") != ""
	tasks   = make(chan func())
	running atomic.Int32
	jobs    atomic.Bool
	queue   = make(chan func())
	calls   = map[string]int{"one": 1, "seq2": 2, "par2": 2, "fan8": 8, "sleep": 2, "executor": 1, "saturated": 2, "retry": 1, "late": 1}
)

func transport(limit int) *http.Transport {
	if os.Getenv("CLIENT") == "h2" {
		return multiplexed()
	}
	return &http.Transport{
		MaxConnsPerHost: limit, MaxIdleConnsPerHost: 64, DisableKeepAlives: os.Getenv("OUT") == "fresh",
	}
}

func call(client *http.Client, path string) int {
	if !workers || strings.HasPrefix(path, "/background/") {
		return send(client, path)
	}
	done := make(chan int, 1)
	task := func() { done <- send(client, path) }
	select {
	case tasks <- task:
	default:
		if running.Add(1) <= 16 {
			go work(task)
		} else {
			running.Add(-1)
			tasks <- task
		}
	}
	return <-done
}

// work runs tasks until there are none for a while.
func work(task func()) {
	for {
		task()
		select {
		case task = <-tasks:
		case <-time.After(50 * time.Millisecond):
			running.Add(-1)
			return
		}
	}
}

func send(client *http.Client, path string) int {
	response, err := client.Get(backend + path)
	if err != nil {
		return 0
	}
	io.Copy(io.Discard, response.Body)
	response.Body.Close()
	return response.StatusCode
}

func paths(pattern, id string, kept bool) []string {
	var all []string
	for index := 0; index < calls[pattern]; index++ {
		digest := fmt.Sprintf("%x", sha256.Sum256([]byte(fmt.Sprintf("%s:%d", id, index))))[:32]
		switch {
		case kept:
			all = append(all, fmt.Sprintf("/call/%s/%d", id, index))
		case pattern == "retry":
			all = append(all, "/flaky/"+digest)
		default:
			all = append(all, "/call/"+digest)
		}
	}
	return all
}

func serve(pattern string, urls []string) {
	switch pattern {
	case "retry":
		for call(client, urls[0]) == 503 {
		}
	case "par2", "fan8":
		var group sync.WaitGroup
		for _, url := range urls {
			group.Add(1)
			go func(url string) { defer group.Done(); call(client, url) }(url)
		}
		group.Wait()
	case "executor":
		done := make(chan struct{})
		queue <- func() { call(client, urls[0]); close(done) }
		<-done
	default:
		for _, url := range urls {
			switch pattern {
			case "sleep":
				time.Sleep(10 * time.Millisecond)
				call(client, url)
			case "saturated":
				call(few, url)
			default:
				call(client, url)
			}
		}
	}
}

func handle(writer http.ResponseWriter, request *http.Request) {
	parts := strings.Split(strings.Trim(request.URL.Path, "/"), "/")
	pattern, id := parts[0], parts[1]
	if pattern == "jobs" {
		jobs.Store(id == "on")
		fmt.Fprint(writer, "ok")
		return
	}
	urls := paths(pattern, id, request.URL.Query().Get("ids") == "kept")
	if pattern == "late" {
		go func() { time.Sleep(2 * time.Millisecond); call(client, urls[0]) }()
	} else {
		serve(pattern, urls)
	}
	fmt.Fprint(writer, "ok")
}

func main() {
	for worker := 0; worker < 16; worker++ {
		go func() {
			for job := range queue {
				job()
			}
		}()
	}
	go func() {
		for number := 0; ; number++ {
			time.Sleep(5 * time.Millisecond)
			if jobs.Load() {
				call(client, fmt.Sprintf("/background/%d", number))
			}
		}
	}()
	if err := http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), http.HandlerFunc(handle)); err != nil {
		panic(err)
	}
}

// A sender and a worker around the Go package, measured as the peers in Python are.
//
//	go-peer worker LIMIT     runs tasks until SIGINT
//	go-peer ORDER            publishes tasks; ORDER and the answer are those of sender.py
//
// $BENCH_URL, $BENCH_QUEUE and $BENCH_METER are as there, and so are the slots of the meter.
package main

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/gofort/dispatcher"
)

const (
	slotBytes = 24
	slotCount = 200000
	ready     = 20
	ioTime    = 50 * time.Millisecond
)

type order struct {
	Kind      string  `json:"kind"`
	Count     int     `json:"count"`
	PerSecond float64 `json:"per_second"`
}

type answer struct {
	Count      int     `json:"count"`
	Seconds    float64 `json:"seconds"`
	CPUSeconds float64 `json:"cpu_seconds"`
}

// silent is a logger that says nothing: a line for each task costs.
type silent struct{}

func (silent) Info(...interface{})           {}
func (silent) Infof(string, ...interface{})  {}
func (silent) Debug(...interface{})          {}
func (silent) Debugf(string, ...interface{}) {}
func (silent) Error(args ...interface{})     { fmt.Fprintln(os.Stderr, args...) }
func (silent) Errorf(format string, args ...interface{}) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
}

func main() {
	if len(os.Args) == 3 && os.Args[1] == "worker" {
		limit, err := strconv.Atoi(os.Args[2])
		check(err)
		work(limit)
		return
	}
	var wanted order
	check(json.Unmarshal([]byte(os.Args[1]), &wanted))
	check(json.NewEncoder(os.Stdout).Encode(send(wanted)))
}

func connect() *dispatcher.Server {
	queue := os.Getenv("BENCH_QUEUE")
	server, _, err := dispatcher.NewServer(&dispatcher.ServerConfig{
		AMQPConnectionString:        os.Getenv("BENCH_URL"),
		ReconnectionRetries:         1,
		ReconnectionIntervalSeconds: 1,
		Exchange:                    queue,
		InitQueues:                  []dispatcher.Queue{{Name: queue, BindingKeys: []string{queue}}},
		DefaultRoutingKey:           queue,
		Logger:                      silent{},
	})
	check(err)
	return server
}

func send(wanted order) answer {
	server := connect()
	defer server.Close()
	first := ready
	if wanted.Count-1 < first {
		first = wanted.Count - 1
	}
	publish := func(value int) {
		check(server.Publish(&dispatcher.Task{
			Name: wanted.Kind,
			Args: []dispatcher.TaskArgument{{Type: "string", Value: strconv.Itoa(value)}},
		}))
	}
	for number := 0; number < first; number++ {
		publish(0)
	}
	begun, cpu := time.Now(), cpuSeconds()
	for number := 0; number < wanted.Count-first; number++ {
		if wanted.PerSecond > 0 {
			at := begun.Add(time.Duration(float64(number) / wanted.PerSecond * float64(time.Second)))
			time.Sleep(time.Until(at))
		}
		if wanted.Kind == "timed" {
			publish(int(time.Now().UnixNano()))
		} else {
			publish(number)
		}
	}
	return answer{wanted.Count - first, time.Since(begun).Seconds(), cpuSeconds() - cpu}
}

func work(limit int) {
	slots := meter()
	var next int64 = -1
	begin := func(sent int64) []byte {
		now := time.Now().UnixNano()
		offset := atomic.AddInt64(&next, 1) * slotBytes
		slot := slots[offset : offset+slotBytes]
		binary.LittleEndian.PutUint64(slot[16:], uint64(sent))
		binary.LittleEndian.PutUint64(slot, uint64(now))
		return slot
	}
	end := func(slot []byte) { binary.LittleEndian.PutUint64(slot[8:], uint64(time.Now().UnixNano())) }

	server := connect()
	queue := os.Getenv("BENCH_QUEUE")
	worker, err := server.NewWorker(
		&dispatcher.WorkerConfig{Limit: limit, Queue: queue, Name: "worker"},
		map[string]dispatcher.TaskConfig{
			"noop": {Function: func(string) { begin(0) }},
			"timed": {Function: func(text string) {
				sent, err := strconv.ParseInt(text, 10, 64)
				check(err)
				begin(sent)
			}},
			"io": {Function: func(string) {
				slot := begin(0)
				time.Sleep(ioTime)
				end(slot)
			}},
		},
	)
	check(err)
	check(worker.Start(server))
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGINT, syscall.SIGTERM)
	<-stop
	server.Close()
}

func meter() []byte {
	path := filepath.Join(os.Getenv("BENCH_METER"), strconv.Itoa(os.Getpid()))
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	check(err)
	check(file.Truncate(slotBytes * slotCount))
	slots, err := syscall.Mmap(
		int(file.Fd()), 0, slotBytes*slotCount, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED,
	)
	check(err)
	return slots
}

func cpuSeconds() float64 {
	var used syscall.Rusage
	check(syscall.Getrusage(syscall.RUSAGE_SELF, &used))
	return time.Duration(used.Utime.Nano() + used.Stime.Nano()).Seconds()
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

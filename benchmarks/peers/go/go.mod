module dispatcher-bench/go-peer

go 1.18


"""The AMQP clients of `make bench`: the same messages published and consumed by each, in its fastest documented way."""

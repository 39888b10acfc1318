"""RabbitMQ, 3.10 to 4.3, over an AMQP engine of our own."""

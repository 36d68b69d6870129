"""Where the truth goes out: the publisher to Kafka and the Redis view."""

"""A deterministic simulator: the real pipeline against a simulated Kafka, Redis and clock, all driven by one seed."""

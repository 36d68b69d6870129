"""Where facts come in: the Kafka source of the pipeline and the readers that restore its state."""

"""The whole program on a real Kafka and a real Redis or Valkey, with everything that goes wrong in production."""

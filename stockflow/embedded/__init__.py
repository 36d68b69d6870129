"""Servers of our own for demo and tests: real programs in child processes that end with their owner."""

from stockflow.embedded.choice import best_broker
from stockflow.embedded.kafka import KafkaBroker
from stockflow.embedded.process import ServerUnavailable
from stockflow.embedded.redis import RedisServer
from stockflow.embedded.tansu import TansuBroker

__all__ = ["KafkaBroker", "RedisServer", "ServerUnavailable", "TansuBroker", "best_broker"]

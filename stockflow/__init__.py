"""stockflow: exact stock availability per SKU and location, published within milliseconds."""

__version__ = "0.1.0"

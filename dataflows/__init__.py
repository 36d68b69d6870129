"""The Bytewax pipelines, one page each."""

"""The demo: a real shopping pattern played through stockflow on its own broker and Redis, then checked."""

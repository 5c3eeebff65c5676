"""The library: services, connections and events for Python programs, with asyncio or without."""

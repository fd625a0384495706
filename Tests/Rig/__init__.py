"""The running Martlet as the suites see it: its environment, database, engine, processes, network and wire."""

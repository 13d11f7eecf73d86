"""The transport between the engine and its update worker: a slab of shared memory, a socket, a ledger, a supervisor."""

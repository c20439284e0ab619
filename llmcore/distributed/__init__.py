"""Several processes that train as one: schedules (plain lists), collectives, and what is built of them. Import from the module."""

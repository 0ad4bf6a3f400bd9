"""The privacy core: plan, mechanisms, oracle, ledger, accounting, noise, statement."""

"""The spine: settings, steps, store, plan, ranks and tables. No torch, no scheduler."""

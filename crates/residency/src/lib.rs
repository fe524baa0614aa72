//! Where weight bytes live: byte ranges, leases, plans and the memory budget.

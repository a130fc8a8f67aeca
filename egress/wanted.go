package egress

// Wanted reports whether another client is owed the session; see mail.Transaction.
func (t *transaction) Wanted() bool { return t.slot != nil && t.slot.Wanted() }

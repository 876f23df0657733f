//! Bad input: each with a clear outcome, nothing lost, neighbours untouched.

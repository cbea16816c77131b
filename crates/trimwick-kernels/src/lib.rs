//! CPU loops on plain slices: the one numeric definition of every operation in Trimwick.

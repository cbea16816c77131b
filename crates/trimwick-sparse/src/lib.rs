//! N:M and unstructured pruning: scores, masks as bitsets, weight update, schedules.

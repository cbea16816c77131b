//! Checks that find silent faults: central differences, gradient flow, closeness, golden tensors.

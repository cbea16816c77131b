//! Candle layers that carry masks and fake-quantizers, every one of them differentiable.

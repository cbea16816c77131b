//! Floats of four and eight bits: what a code or a scale byte is worth.
//!
//! Source: the OCP Microscaling (MX) specification 1.0 and OFP8.

/// The value of an E2M1 code in the low four bits: 0 .5 1 1.5 2 3 4 6, bit 3 being the sign.
pub fn e2m1(code: u8) -> f32 {
    const VALUES: [f32; 16] = [0., 0.5, 1., 1.5, 2., 3., 4., 6., -0., -0.5, -1., -1.5, -2., -3., -4., -6.];
    VALUES[usize::from(code & 15)]
}

/// The value of an E4M3 byte: up to ±448, subnormals to 2⁻⁹; 0x7f and 0xff are NaN.
pub fn e4m3(byte: u8) -> f32 {
    let magnitude = match byte & 0x7f {
        0x7f => f32::NAN,
        bits => small_float(bits, 3, 7),
    };
    if byte < 0x80 { magnitude } else { -magnitude }
}

/// The value of an E5M2 byte: up to ±57344, subnormals to 2⁻¹⁶; the last exponent is infinity and NaN.
pub fn e5m2(byte: u8) -> f32 {
    let magnitude = match byte & 0x7f {
        0x7c => f32::INFINITY,
        0x7d.. => f32::NAN,
        bits => small_float(bits, 2, 15),
    };
    if byte < 0x80 { magnitude } else { -magnitude }
}

/// The power of two of an E8M0 byte, 2^(byte − 127); 255 is NaN.
pub fn e8m0(byte: u8) -> f32 {
    match byte {
        0 => f32::from_bits(1 << 22),
        255 => f32::NAN,
        e => f32::from_bits(u32::from(e) << 23),
    }
}

/// A float without sign of `mantissa` stored bits and an exponent above them. Exact: every step is.
fn small_float(bits: u8, mantissa: u32, bias: i32) -> f32 {
    let (exponent, fraction) = (i32::from(bits >> mantissa), f32::from(bits & ((1 << mantissa) - 1)));
    let unit = 2f32.powi(exponent.max(1) - bias - mantissa as i32);
    let hidden = if exponent == 0 { 0. } else { f32::from(1u8 << mantissa) };
    (hidden + fraction) * unit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_at_the_edges() {
        for (value, expected) in [
            (e4m3(0), 0.),
            (e4m3(1), 2f32.powi(-9)),
            (e4m3(7), 7. * 2f32.powi(-9)),
            (e4m3(8), 2f32.powi(-6)),
            (e4m3(0x38), 1.),
            (e4m3(0x7e), 448.),
            (e4m3(0xfe), -448.),
            (e5m2(1), 2f32.powi(-16)),
            (e5m2(0x3c), 1.),
            (e5m2(0x7b), 57344.),
            (e5m2(0xfc), f32::NEG_INFINITY),
            (e2m1(7), 6.),
            (e2m1(0xf9), -0.5),
            (e8m0(0), 2f32.powi(-127)),
            (e8m0(1), 2f32.powi(-126)),
            (e8m0(127), 1.),
            (e8m0(254), 2f32.powi(127)),
        ] {
            assert_eq!(value, expected);
        }
        assert!([e4m3(0x7f), e4m3(0xff), e5m2(0x7d), e5m2(0xff), e8m0(255)].iter().all(|v| v.is_nan()));
        assert!(e4m3(0x80).is_sign_negative() && e2m1(8).is_sign_negative());
    }
}

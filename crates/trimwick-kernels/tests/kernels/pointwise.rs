//! SwiGLU, rotary embedding, dropout and table look-ups.

use trimwick_kernels::{
    Rng, add, add_assign, add_row, dropout, embedding, embedding_backward, rope, scale_into, sum_rows,
    swiglu, swiglu_backward, zeros,
};

use crate::support::{assert_close, bits, check_gradient, dot, normal, unwritten};

#[test]
fn swiglu_gradients() {
    let n = 40;
    let (gate, up, g) = (normal::<f64>("gate", n), normal("up", n), normal("g", n));
    let gate: Vec<f64> = gate.iter().map(|v| 3.0 * v).collect();
    let (mut dgate, mut dup) = (unwritten(n), unwritten(n));
    swiglu_backward(&gate, &up, &g, &mut dgate, &mut dup);
    let loss = |gate: &[f64], up: &[f64]| {
        let mut y = unwritten(n);
        swiglu(gate, up, &mut y);
        dot(&y, &g)
    };
    check_gradient("dgate", &gate, &dgate, |gate| loss(gate, &up));
    check_gradient("dup", &up, &dup, |up| loss(&gate, up));
}

#[test]
fn swiglu_in_f32_over_the_whole_range_of_gates() {
    let gate: Vec<f32> = (-2000..2000).map(|i| i as f32 * 0.1).collect();
    let up = vec![1.0f32; gate.len()];
    let wide = gate.iter().map(|&x| f64::from(x));
    let want: Vec<f64> = wide.clone().map(|x| x / (1.0 + (-x).exp())).collect();
    let slope: Vec<f64> = wide.map(|x| 1.0 / (1.0 + (-x).exp()) * (1.0 + x / (1.0 + x.exp()))).collect();
    let (mut y, mut dgate, mut dup) = (unwritten(gate.len()), unwritten(gate.len()), unwritten(gate.len()));
    swiglu(&gate, &up, &mut y);
    swiglu_backward(&gate, &up, &up, &mut dgate, &mut dup);
    assert_close("y", &y, &want, 5e-7);
    assert_close("dup", &dup, &want, 5e-7);
    assert_close("dgate", &dgate, &slope, 2e-6);
}

fn angles(t: usize, half: usize) -> (Vec<f64>, Vec<f64>) {
    let angle = |i: usize| (i / half) as f64 * 1e4f64.powf(-((i % half) as f64) / half as f64);
    (0..t * half).map(|i| (angle(i).cos(), angle(i).sin())).unzip()
}

#[test]
fn rope_rotates_pairs_half_a_head_apart() {
    let (b, t, h, d) = (2, 5, 3, 6);
    let (cos, sin) = angles(t, d / 2);
    let x = normal::<f64>("x", b * t * h * d);
    let mut y = unwritten(x.len());
    rope(&x, &cos, &sin, &mut y, b, t, h, d, false);
    for (e, &got) in y.iter().enumerate() {
        let (i, position) = (e % d, e / (h * d) % t);
        let angle = position * (d / 2) + i % (d / 2);
        let partner = if i < d / 2 { -x[e + d / 2] } else { x[e - d / 2] };
        let want = x[e] * cos[angle] + partner * sin[angle];
        assert!((got - want).abs() < 1e-15, "element {e}: {got}, expected {want}");
    }
}

#[test]
fn rope_inverse_undoes_it_and_is_its_gradient() {
    // More tokens than one task takes.
    let (b, t, h, d) = (3, 200, 5, 16);
    let (cos, sin) = angles(t, d / 2);
    let x = normal::<f64>("x", b * t * h * d);
    let (mut y, mut back) = (unwritten(x.len()), unwritten(x.len()));
    rope(&x, &cos, &sin, &mut y, b, t, h, d, false);
    rope(&y, &cos, &sin, &mut back, b, t, h, d, true);
    assert_close("inverse of rope", &back, &x, 1e-14);

    let (b, t, h, d) = (1, 3, 2, 4);
    let (cos, sin) = angles(t, d / 2);
    let (x, g) = (normal("x", b * t * h * d), normal("g", b * t * h * d));
    let mut dx = unwritten(x.len());
    rope(&g, &cos, &sin, &mut dx, b, t, h, d, true);
    check_gradient("rope", &x, &dx, |x| {
        let mut y = unwritten(x.len());
        rope(x, &cos, &sin, &mut y, b, t, h, d, false);
        dot(&y, &g)
    });
}

#[test]
fn rope_at_position_zero_changes_nothing() {
    let x = normal::<f32>("x", 24);
    let mut y = unwritten(24);
    rope(&x, &[1.0; 4], &[0.0; 4], &mut y, 1, 1, 3, 8, false);
    assert_eq!(bits(&x), bits(&y));
}

#[test]
fn dropout_drops_its_share_and_scales_the_rest() {
    let n = 200_000;
    let x = vec![3.0f32; n];
    for p in [0.1, 0.5, 0.9] {
        let mut y = unwritten(n);
        dropout(&x, p, &Rng::new(1, "dropout", 5, "layer"), &mut y);
        let dropped = y.iter().filter(|v| v.to_bits() == 0).count();
        let scaled = (3.0 / (1.0 - p)) as f32;
        assert_eq!(n - dropped, y.iter().filter(|&&v| (v - scaled).abs() < 1e-6 * scaled).count(), "p {p}");
        // Five standard deviations.
        let deviation = (dropped as f64 - n as f64 * p).abs();
        assert!(deviation < 5.0 * (n as f64 * p * (1.0 - p)).sqrt(), "p {p}: {dropped} dropped");
    }
}

#[test]
fn dropout_decides_element_by_word_and_is_its_own_gradient() {
    let rng = Rng::new(1, "dropout", 5, "layer");
    let (x, g) = (normal("x", 37), normal("g", 37));
    let (mut y, mut dx) = (unwritten(37), unwritten(37));
    dropout(&x, 0.3, &rng, &mut y);
    for (i, &y) in y.iter().enumerate() {
        let kept = f64::from(rng.u32_at(i as u64)) >= 0.3 * 4_294_967_296.0;
        assert_eq!(kept, y != 0.0, "element {i}");
    }
    dropout(&g, 0.3, &rng, &mut dx);
    check_gradient("dropout", &x, &dx, |x| {
        let mut y = unwritten(37);
        dropout(x, 0.3, &rng, &mut y);
        dot(&y, &g)
    });
}

#[test]
fn dropout_of_nothing_and_of_everything() {
    let x = [1.0f32, -2.0, f32::INFINITY, f32::NAN, -0.0];
    let rng = Rng::new(1, "dropout", 0, "");
    let mut y = [f32::NAN; 5];
    dropout(&x, 0.0, &rng, &mut y);
    assert_eq!(bits(&x), bits(&y));
    dropout(&x, 1.0, &rng, &mut y);
    assert_eq!(y.map(f32::to_bits), [0; 5]);
}

#[test]
fn embedding_and_its_gradient() {
    let (v, d) = (6, 5);
    // Repeated ids, the first and the last row, and rows that nobody names.
    let ids = [3, 0, 3, 5, 3, 0];
    let (weight, g) = (normal("weight", v * d), normal("g", ids.len() * d));
    let mut out = unwritten(ids.len() * d);
    embedding(&weight, &ids, &mut out, d);
    for (row, &id) in out.chunks(d).zip(&ids) {
        assert_eq!(row, &weight[id as usize * d..][..d]);
    }
    let mut dweight = unwritten(v * d);
    embedding_backward(&ids, &g, &mut dweight, d, false);
    check_gradient("embedding", &weight, &dweight, |weight| {
        let mut out = unwritten(ids.len() * d);
        embedding(weight, &ids, &mut out, d);
        dot(&out, &g)
    });
    assert!(dweight[4 * d..5 * d].iter().all(|g| g.to_bits() == 0));
    let twice: Vec<f64> = dweight.iter().map(|g| g + g).collect();
    embedding_backward(&ids, &g, &mut dweight, d, true);
    assert_close("accumulated", &dweight, &twice, 1e-14);
}

#[test]
fn sums_of_tensors_and_of_rows() {
    for (rows, d) in [(1, 1), (3, 7), (90, 500), (2000, 33)] {
        let n = rows * d;
        let (a, b, row) = (normal::<f64>("a", n), normal::<f64>("b", n), normal::<f64>("row", d));
        let case = |what: &str| format!("{what} of {rows}×{d}");
        let mut y = unwritten(n);
        add(&a, &b, &mut y);
        let want: Vec<f64> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
        assert_eq!(bits(&y), bits(&want), "{}", case("add"));
        add_assign(&mut y, &b);
        let more: Vec<f64> = want.iter().zip(&b).map(|(a, b)| a + b).collect();
        assert_eq!(bits(&y), bits(&more), "{}", case("add_assign"));
        scale_into(&a, 0.3, &mut y, false);
        scale_into(&b, 2.0, &mut y, true);
        let mixed: Vec<f64> = a.iter().zip(&b).map(|(a, b)| a * 0.3 + b * 2.0).collect();
        assert_close(&case("scale_into"), &y, &mixed, 1e-14);
        y.copy_from_slice(&a);
        add_row(&mut y, &row);
        let shifted: Vec<f64> = a.iter().enumerate().map(|(i, a)| a + row[i % d]).collect();
        assert_eq!(bits(&y), bits(&shifted), "{}", case("add_row"));
        let (mut sum, mut want) = (unwritten(d), vec![0.0; d]);
        sum_rows(&a, &mut sum);
        a.iter().enumerate().for_each(|(i, a)| want[i % d] += a);
        assert_close(&case("sum_rows"), &sum, &want, 1e-11);
    }
    for n in [0, 5, 128 * 1024 + 3] {
        assert!(zeros::<f32>(n).len() == n && zeros::<f32>(n).iter().all(|v| v.to_bits() == 0));
    }
}

#[test]
fn embedding_gradient_over_many_rows_adds_in_the_order_of_the_tokens() {
    let (v, d, n) = (5000, 24, 3000);
    let rng = Rng::new(3, "ids", 0, "");
    let ids: Vec<u32> = (0..n).map(|i| rng.u32_at(i) % 5000 / (1 + i as u32 % 3)).collect();
    let g = normal::<f32>("g", ids.len() * d);
    let mut want = vec![0.0f32; v * d];
    for (g, &id) in g.chunks(d).zip(&ids) {
        want[id as usize * d..][..d].iter_mut().zip(g).for_each(|(w, g)| *w += g);
    }
    let mut dweight = unwritten(v * d);
    embedding_backward(&ids, &g, &mut dweight, d, false);
    assert_eq!(bits(&dweight), bits(&want));
}

#[test]
#[should_panic(expected = "id 4 in a table of 4 rows")]
fn an_id_past_the_table_is_refused() {
    embedding(&[0.0f32; 8], &[0, 4], &mut [0.0; 4], 2);
}

//! Test cases of the contraction: every geometry and epilogue, shapes that fit no tile.

use super::{Activation, AddKind, Case, Conv, Gemm, Given, Rows};

pub(super) fn gemm_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    linear_cases(&mut cases);
    epilogue_cases(&mut cases);
    whole_cases(&mut cases);
    conv_cases(&mut cases);
    cases
}

fn linear_cases(cases: &mut Vec<Case>) {
    let plain = Gemm::new(Rows::Same);
    for (m, n, k) in [(1, 1, 1), (3, 5, 7), (77, 40, 40), (33, 17, 12), (64, 64, 64), (130, 36, 88), (5, 3, 300)] {
        cases.push(Case::new(plain.clone(), [Given::normal([m, k]), Given::normal([n, k])]).grads([0, 1]));
        cases.push(Case::new(plain.clone(), [Given::normal([m, k]), Given::half([n, k])]).grads([0]));
        let k_major = Gemm { k_major: true, alpha: 0.3, ..plain.clone() };
        cases.push(Case::new(k_major.clone(), [Given::normal([m, k]), Given::normal([k, n])]).grads([0]));
        cases.push(Case::new(k_major.clone(), [Given::normal([m, k]), Given::half([k, n])]));
        let sum = Gemm { add: Some(AddKind::Full), ..k_major };
        cases.push(Case::new(sum, [Given::normal([m, k]), Given::half([k, n]), Given::normal([m, n])]));
    }
    for (m, n, k) in [(5, 3, 64), (33, 17, 128), (70, 64, 192)] {
        cases.push(Case::new(plain.clone(), [Given::normal([m, k]), Given::block8([n, k])]).grads([0]));
        let back = Gemm { k_major: true, ..plain.clone() };
        cases.push(Case::new(back, [Given::normal([m, n]), Given::block8([n, k])]));
    }
    for (m, n, k) in [(5, 3, 32), (33, 17, 96)] {
        cases.push(Case::new(plain.clone(), [Given::normal([m, k]), Given::block4([n, k])]).grads([0]));
        let back = Gemm { k_major: true, ..plain.clone() };
        cases.push(Case::new(back, [Given::normal([m, n]), Given::block4([n, k])]));
    }
    for (b, m, n, k) in [(3, 5, 7, 4), (2, 16, 8, 12)] {
        for k_major in [false, true] {
            let w = if k_major { [b, k, n] } else { [b, n, k] };
            let op = Gemm { batched: true, k_major, alpha: 2.0, ..plain.clone() };
            cases.push(Case::new(op, [Given::normal([b, m, k]), Given::normal(w)]));
        }
    }
    let row = Gemm { batched: true, k_major: true, alpha: 0.5, ..plain.clone() };
    cases.push(Case::new(row, [Given::normal([3, 1, 7]), Given::normal([3, 7, 5])]).grads([0, 1]));
    cases.push(Case::new(plain.clone(), [Given::normal([0, 8]), Given::normal([4, 8])]));
    // A row per sample of each product; more terms than the iterations that drivers allow a loop.
    let rows = Gemm { batched: true, add: Some(AddKind::PerSample { offset: 1 }), ..plain.clone() };
    cases.push(Case::new(rows, [Given::normal([2, 8, 4]), Given::normal([2, 4, 4]), Given::normal([2, 6])]));
    let long = Gemm { k_major: true, ..plain.clone() };
    cases.push(Case::new(long, [Given::normal([2, 66_049]), Given::normal([66_049, 3])]));
    // More than 65535 workgroups of the smallest tile.
    cases.push(Case::new(plain, [Given::normal([600_000, 1]), Given::normal([9, 1])]));
}

fn epilogue_cases(cases: &mut Vec<Case>) {
    let plain = Gemm::new(Rows::Same);
    for (m, n, k) in [(6, 8, 12), (10, 5, 7)] {
        let (x, w) = (Given::normal([2, m / 2, k]), Given::normal([n, k]));
        let bias = Gemm { bias: true, ..plain.clone() };
        cases.push(Case::new(bias.clone(), [x.clone(), w.clone(), Given::normal([n])]).grads([0, 1, 2]));
        for activation in [Activation::Silu, Activation::Gelu, Activation::QuickGelu, Activation::GeluTanh] {
            let op = Gemm { activation: Some(activation), ..bias.clone() };
            cases.push(Case::new(op, [x.clone(), w.clone(), Given::normal([n])]).grads([0, 1, 2]));
        }
        let full = Gemm { add: Some(AddKind::Full), ..bias.clone() };
        let inputs = [x.clone(), w.clone(), Given::normal([n]), Given::normal([2, m / 2, n])];
        cases.push(Case::new(full.clone(), inputs.clone()).grads([0, 3]));
        cases.push(Case::new(Gemm { activation: Some(Activation::Silu), ..full.clone() }, inputs));
        let sample = Gemm { add: Some(AddKind::PerSample { offset: 0 }), ..plain.clone() };
        cases.push(Case::new(sample, [x.clone(), w.clone(), Given::normal([2, n])]).grads([0, 2]));
        let sample = Gemm { add: Some(AddKind::PerSample { offset: 3 }), ..plain.clone() };
        cases.push(Case::new(sample, [x.clone(), w.clone(), Given::normal([2, n + 5])]));
        for r in [1, 3, 8] {
            let lora = Gemm { lora: Some(0.7), ..bias.clone() };
            let inputs =
                [x.clone(), w.clone(), Given::normal([n]), Given::normal([2, m / 2, r]), Given::normal([n, r])];
            cases.push(Case::new(lora, inputs).grads([0, 1, 3, 4]));
        }
        let all = Gemm { lora: Some(-0.5), alpha: 0.25, ..full };
        let inputs = [
            x.clone(),
            w,
            Given::normal([n]),
            Given::normal([2, m / 2, n]),
            Given::normal([m, 2]),
            Given::normal([n, 2]),
        ];
        cases.push(Case::new(all, inputs).grads([0, 1, 2, 3, 4, 5]));
        let geglu = Gemm { geglu: true, ..bias };
        let pair = [x, Given::normal([2 * n, k]), Given::normal([2 * n])];
        cases.push(Case::new(geglu.clone(), pair.clone()));
        let lora = Gemm { lora: Some(0.7), alpha: 0.5, ..geglu };
        cases.push(Case::new(lora, [pair.to_vec(), vec![Given::normal([m, 3]), Given::normal([2 * n, 3])]].concat()));
    }
    // Sums so long that drivers that compile slowly gate the columns in a pass of its own, and so many rows that the
    // tallest tile of pairs is chosen.
    for (m, n, k, w) in [
        (18, 12, 320, Given::half([24, 320])),
        (18, 5, 257, Given::normal([10, 257])),
        (130, 37, 7, Given::normal([74, 7])),
    ] {
        let op = Gemm { geglu: true, bias: true, lora: Some(0.7), ..plain.clone() };
        let factors = [Given::normal([2, m / 2, 3]), Given::normal([2 * n, 3])];
        let inputs = [vec![Given::normal([2, m / 2, k]), w, Given::normal([2 * n])], factors.to_vec()].concat();
        cases.push(Case::new(op, inputs));
    }
}

/// Cases with all terms of a result at once.
fn whole_cases(cases: &mut Vec<Case>) {
    for (c1, c2, n, rank) in [(8, 4, 12, 4), (5, 3, 6, 3)] {
        for add in [AddKind::Full, AddKind::PerSample { offset: 2 }] {
            let op = Gemm {
                x2: true,
                bias: true,
                add: Some(add),
                lora: Some(-0.5),
                alpha: 0.25,
                activation: Some(Activation::Silu),
                ..Gemm::new(Rows::Conv(Conv::same(3)))
            };
            let added = if add == AddKind::Full { Given::normal([2, 4, 5, n]) } else { Given::normal([2, n + 4]) };
            for w in [Given::normal([n, 3, 3, c1 + c2]), Given::half([n, 3, 3, c1 + c2])] {
                let inputs = [
                    Given::normal([2, 4, 5, c1]),
                    Given::normal([2, 4, 5, c2]),
                    w,
                    Given::normal([n]),
                    added.clone(),
                    Given::normal([2, 4, 5, rank]),
                    Given::normal([n, rank]),
                ];
                cases.push(Case::new(op.clone(), inputs));
            }
        }
    }
}

fn conv_cases(cases: &mut Vec<Case>) {
    let geometries = [
        (Conv::same(3), [5, 6], [3, 3]),
        (Conv { stride: 2, pad: [1; 4], upsample: false }, [7, 6], [3, 3]),
        (Conv { stride: 2, pad: [0, 0, 1, 1], upsample: false }, [6, 8], [3, 3]),
        (Conv { stride: 1, pad: [1; 4], upsample: true }, [3, 4], [3, 3]),
        (Conv::same(1), [4, 3], [1, 1]),
        (Conv::same(3), [1, 1], [3, 3]),
    ];
    for (conv, [h, w], [kh, kw]) in geometries {
        for (c1, c2, n) in [(4, 0, 8), (5, 3, 6), (8, 12, 20), (3, 0, 1)] {
            let op = Gemm { x2: c2 > 0, bias: true, ..Gemm::new(Rows::Conv(conv)) };
            let mut inputs = vec![Given::normal([2, h, w, c1])];
            inputs.extend((c2 > 0).then(|| Given::normal([2, h, w, c2])));
            inputs.extend([Given::normal([n, kh, kw, c1 + c2]), Given::normal([n])]);
            let by: Vec<usize> = (0..inputs.len()).collect();
            cases.push(Case::new(op.clone(), inputs.clone()).grads(by));
            let at = inputs.len() - 2;
            inputs[at] = Given::half([n, kh, kw, c1 + c2]);
            cases.push(Case::new(op, inputs));
            if c1 == 8 {
                // Eight-bit blocks of 64 channels; the gradient reads the same weight the other way round.
                let op = Gemm { bias: true, ..Gemm::new(Rows::Conv(conv)) };
                let inputs = [Given::normal([2, h, w, 64]), Given::block8([n, kh, kw, 64]), Given::normal([n])];
                cases.push(Case::new(op.clone(), inputs).grads([0]));
                let inputs = [Given::normal([2, h, w, 32]), Given::block4([n, kh, kw, 32]), Given::normal([n])];
                cases.push(Case::new(op, inputs).grads([0]));
            }
            let Some(out) = conv.output_size([h, w], [kh, kw]).filter(|_| !conv.upsample) else { continue };
            for (first, columns) in [(0, c1), (c1, c2)].into_iter().filter(|(_, n)| *n > 0) {
                let back = Gemm::new(Rows::Transposed { conv, size: [h, w], first, columns });
                let inputs = [Given::normal([2, out[0], out[1], n]), Given::normal([n, kh, kw, c1 + c2])];
                if first == 0 {
                    let sum = Gemm { add: Some(AddKind::Full), ..back.clone() };
                    let addend = Given::normal([2, h, w, columns]);
                    cases.push(Case::new(sum, [inputs.to_vec(), vec![addend]].concat()));
                }
                cases.push(Case::new(back, inputs));
            }
        }
    }
}

//! A mixture of experts: route, route_order, the experts' products by matvec and matmul, experts_sum.

use super::data::{activations, close, equal, f64s, poisoned, read_activations, run, tensor, CheckError, Random};
use crate::gpu::shader::{NumberFormat, WeightFormat};
use crate::gpu::Gpu;
use crate::kernels::{self, Activate, ExpertRows, MatrixSize, Routes, WeightMatrix};
use crate::reference::{self, ActivateShape, Activation, Epilogue, Gating, Linear, Router};

/// Logits that are far enough apart for every device to order them alike, each as likely anywhere.
fn logits(l: usize, experts: usize, random: &mut Random) -> Vec<f32> {
    let mut all = Vec::new();
    for _ in 0..l {
        let mut row: Vec<f32> = (0..experts).map(|i| 6.0 * (i as f32 / experts as f32 - 0.5)).collect();
        for i in (1..experts).rev() {
            row.swap(i, (random.bits() % (i as u64 + 1)) as usize);
        }
        all.extend(row);
    }
    all
}

/// Which experts, by which weights, of l tokens.
pub async fn route(gpu: &Gpu, router: Router, l: usize, random: &mut Random) -> Result<(), CheckError> {
    let logits = logits(l, router.experts, random);
    let sigmoid = matches!(router.gating, Gating::Sigmoid { .. });
    let bias = sigmoid.then(|| random.vec(router.experts, -0.2, 0.2));
    let (mut experts, mut weights) = (vec![0; router.pairs(l)], vec![0.0; router.pairs(l)]);
    let bias64 = bias.as_deref().map(f64s);
    reference::route(&mut experts, &mut weights, &f64s(&logits), bias64.as_deref(), &router);

    let routes = Routes::new(gpu, &router, l)?;
    let (tl, tb) = (tensor(gpu, &logits)?, bias.map(|bias| tensor(gpu, &bias)).transpose()?);
    run(gpu, |plan| kernels::route(plan, &tl, tb.as_ref(), &routes, &router, l)).await?;
    let what = format!("route {router:?} of {l} tokens");
    equal(&what, &routes.experts.read::<u32>(gpu).await?, &experts)?;
    close(&what, &routes.weights.read::<f32>(gpu).await?, &weights, 1e-7, 4e-6)
}

/// Sizes of the experts of a layer, and of what goes through them.
#[derive(Debug, Clone, Copy)]
pub struct ExpertsCase {
    pub l: usize,
    pub experts: usize,
    pub chosen: usize,
    /// Columns and rows of an expert's matrix.
    pub k: usize,
    pub rows: usize,
    pub format: WeightFormat,
    pub x: NumberFormat,
}

/// Routes of l tokens, on the device and here.
async fn routed(gpu: &Gpu, case: &ExpertsCase, random: &mut Random) -> Result<(Routes, Router, Vec<u32>), CheckError> {
    let router = Router { experts: case.experts, chosen: case.chosen, gating: Gating::Chosen, scale: 1.0 };
    let (mut experts, mut weights) = (vec![0; router.pairs(case.l)], vec![0.0; router.pairs(case.l)]);
    // The last expert has none.
    let logits = logits(case.l, case.experts, random);
    let less = |(i, x): (usize, &f32)| if i % case.experts + 1 == case.experts { -9.0 } else { *x };
    let logits: Vec<f32> = logits.iter().enumerate().map(less).collect();
    reference::route(&mut experts, &mut weights, &logits, None, &router);
    let routes = Routes::new(gpu, &router, case.l)?;
    routes.experts.write(gpu, 0, &experts);
    routes.weights.write(gpu, 0, &weights);
    Ok((routes, router, experts))
}

/// What each pair's expert makes of its row: of row `row(pair)` of x.
fn expected(case: &ExpertsCase, x: &[f32], w: &[f32], experts: &[u32], row: impl Fn(usize) -> usize) -> Vec<f64> {
    let &ExpertsCase { k, rows, .. } = case;
    let (x, w) = (f64s(x), f64s(w));
    let mut y = vec![0.0; experts.len() * rows];
    for (pair, y) in y.chunks_mut(rows).enumerate() {
        let w = &w[experts[pair] as usize * rows * k..][..rows * k];
        let shape = Linear::dense(1, k, rows);
        reference::matvec(y, &x[row(pair) * k..][..k], w, None, &shape, Epilogue::None);
    }
    y
}

/// Rows in another order: the i-th is the order's i-th.
fn sorted<T: Copy>(y: &[T], order: &[u32], width: usize) -> Vec<T> {
    order.iter().flat_map(|pair| y[*pair as usize * width..][..width].iter().copied()).collect()
}

/// The products by [`kernels::experts_matmul`], both ways, with the order of pairs; and their sum.
pub async fn matmul(gpu: &Gpu, case: ExpertsCase, random: &mut Random) -> Result<(), CheckError> {
    let ExpertsCase { l, k, rows, chosen, format, .. } = case;
    let (routes, router, experts) = routed(gpu, &case, random).await?;
    let pairs = router.pairs(l);
    let (mut order, mut offsets) = (vec![0; pairs], vec![0; case.experts + 1]);
    reference::route_order(&mut order, &mut offsets, &experts);
    run(gpu, |plan| kernels::route_order(plan, &routes, &router, l)).await?;
    let what = format!("{case:?}");
    let (got_order, got_offsets) = routes.ordered();
    equal(&what, &got_order.read::<u32>(gpu).await?, &order)?;
    equal(&what, &got_offsets.read::<u32>(gpu).await?, &offsets)?;

    let w = random.weights(format, (case.experts * rows, k), -1.0, 1.0);
    let size = MatrixSize { n: case.experts * rows, k, together: rows };
    let matrix = WeightMatrix::upload(gpu, "experts", size, format, |r| {
        Ok::<_, crate::gpu::GpuError>(w[r.start * k..r.end * k].to_vec())
    })?;
    let atol = 2e-6 * (k as f64).sqrt() + 4e-6;
    for gather in [true, false] {
        let (tx, x) = activations(gpu, &random.vec(if gather { l } else { pairs } * k, -1.0, 1.0), case.x)?;
        let y = poisoned(gpu, pairs * rows)?;
        run(gpu, |plan| kernels::experts_matmul(plan, (&tx, gather), &matrix, (&routes, &router), &y, l)).await?;
        let got = y.read::<f32>(gpu).await?;
        if gather {
            let want = expected(&case, &x, &w, &experts, |pair| pair / chosen);
            close(&what, &got, &sorted(&want, &order, rows), atol, 2e-6)?;
        } else {
            let place = |pair: usize| order.iter().position(|at| *at as usize == pair).unwrap_or(0);
            close(&what, &got, &expected(&case, &x, &w, &experts, place), atol, 2e-6)?;
        }
    }
    Ok(())
}

/// The products by [`kernels::experts_matvec`], of all kinds of rows.
pub async fn matvec(gpu: &Gpu, case: ExpertsCase, random: &mut Random) -> Result<(), CheckError> {
    let ExpertsCase { l, k, rows, chosen, format, .. } = case;
    let (routes, router, experts) = routed(gpu, &case, random).await?;
    let pairs = router.pairs(l);
    let w = random.weights(format, (case.experts * rows, k), -1.0, 1.0);
    let matrix = WeightMatrix::new(gpu, "experts", (case.experts * rows, k), format, &w)?;
    let (of_experts, what) = ((&routes, &router), format!("{case:?}"));
    let atol = 2e-6 * (k as f64).sqrt() + 4e-6;

    let x = random.vec(pairs * k, -1.0, 1.0);
    let (tx, y) = (tensor(gpu, &x)?, poisoned(gpu, pairs * rows)?);
    run(gpu, |plan| kernels::experts_matvec(plan, ExpertRows::Pairs(&tx), &matrix, of_experts, &y, (l, None))).await?;
    close(&what, &y.read::<f32>(gpu).await?, &expected(&case, &x, &w, &experts, |pair| pair), atol, 2e-6)?;

    for gated in [false, true] {
        let sides = 1 + usize::from(gated);
        let f = if gated { Activation::Silu } else { Activation::Relu2 };
        let act = Activate { f, gated, gate_scale: 1.0, scale: 1.0 };
        let y = poisoned(gpu, pairs * rows / sides)?;
        let rows_of = ExpertRows::Tokens(&tx);
        run(gpu, |plan| kernels::experts_matvec(plan, rows_of, &matrix, of_experts, &y, (l, Some(act)))).await?;
        let want = activated(&expected(&case, &x, &w, &experts, |pair| pair / chosen), rows, act);
        close(&what, &y.read::<f32>(gpu).await?, &want, 40.0 * atol, 1e-5)?;
        if l > 1 || !k.is_multiple_of(4) {
            continue;
        }
        let norm = random.vec(k, 0.5, 1.5);
        let (tn, y) = (tensor(gpu, &norm)?, poisoned(gpu, pairs * rows / sides)?);
        let rows_of = ExpertRows::Norm(&tx, &tn, 1e-5);
        run(gpu, |plan| kernels::experts_matvec(plan, rows_of, &matrix, of_experts, &y, (1, Some(act)))).await?;
        let mut normed = vec![0.0; k];
        let (mut row, weight) = (f64s(&x[..k]), f64s(&norm));
        reference::rms_norm(&mut normed, &mut row, None, Some(&weight), 1e-5, k);
        let normed: Vec<f32> = normed.iter().map(|x| *x as f32).collect();
        let want = activated(&expected(&case, &normed, &w, &experts, |_| 0), rows, act);
        close(&what, &y.read::<f32>(gpu).await?, &want, 100.0 * atol, 3e-5)?;
    }
    Ok(())
}

/// Rows after an activation; of those with gates the first half of each.
fn activated(up: &[f64], rows: usize, act: Activate) -> Vec<f64> {
    let width = if act.gated { rows / 2 } else { rows };
    let l = up.len() / rows.max(1);
    let x = if act.gated { (rows, width) } else { (rows, 0) };
    let shape = ActivateShape { l, width, x, gate: (rows, 0), gate_scale: 1.0, scale: 1.0 };
    let mut y = vec![0.0; l * width];
    reference::activate(&mut y, up, act.gated.then_some(up), act.f, &shape);
    y
}

/// What experts make of l tokens, summed.
pub async fn sum(gpu: &Gpu, (l, chosen, width): (usize, usize, usize), random: &mut Random) -> Result<(), CheckError> {
    let router = Router { experts: chosen, chosen, gating: Gating::All, scale: 1.0 };
    let routes = Routes::new(gpu, &router, l)?;
    let (weights, y) = (random.vec(l * chosen, -1.0, 1.0), random.vec(l * chosen * width, -1.0, 1.0));
    routes.weights.write(gpu, 0, &weights);
    for add in [false, true] {
        let before = if add { random.vec(l * width, -1.0, 1.0) } else { vec![f32::NAN; l * width] };
        let (out, ty) = (tensor(gpu, &before)?, tensor(gpu, &y)?);
        run(gpu, |plan| kernels::experts_sum(plan, (&out, add), &ty, &routes, &router, (l, width))).await?;
        let mut want = f64s(&before);
        reference::experts_sum(&mut want, &f64s(&y), &f64s(&weights), (chosen, width), add);
        close(
            &format!("experts_sum {l} {chosen} {width} {add}"),
            &read_activations(gpu, &out).await?,
            &want,
            2e-6,
            0.0,
        )?;
    }
    Ok(())
}

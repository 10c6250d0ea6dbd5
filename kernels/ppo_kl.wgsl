// What PPO's kernels share: exp(x) − 1 − x without cancellation (Schulman's k3 at x = −log ratio), for x up to 80.
fn k3(x: f32) -> f32 {
  let series = x * x * (0.5 + x * (1.0 / 6 + x * (1.0 / 24 + x * (1.0 / 120 + x * (1.0 / 720)))));
  return select(exp(clamp(x, -80.0, 80.0)) - 1 - x, series, abs(x) < 0.3);
}

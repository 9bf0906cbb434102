// Sines and cosines of t * frequency. Builtin sin and cos may be off by 5e-4 (WGSL 15.7.4.1), and a product of 1000 in
// f32 by 3e-5: angles are counted in turns instead, whole t in 32-bit fixed point, where overflow is the reduction.
// Uniforms: count dim flip; table: turns a unit of t, times 2^32 (a driver takes half a second for a private array).
// Cephes' sinf and cosf within an eighth of a turn, in radians.
fn small_sin(x: f32) -> f32 {
    let z = x * x;
    return x + x * z * (-1.6666654611e-1 + z * (8.3321608736e-3 - z * 1.9515295891e-4));
}
fn small_cos(x: f32) -> f32 {
    let z = x * x;
    return 1.0 - 0.5 * z + z * z * (4.166664568298827e-2 + z * (-1.388731625493765e-3 + z * 2.443315711809948e-5));
}
@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) n: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = linear_workgroup(w, n) * 64u + lane;
    if i >= p.count { return; }
    let half = p.dim / 2u;
    let column = i % p.dim;
    // An odd width ends in a zero.
    if column >= 2u * half { out_put(i, 0.0); return; }
    let second = column >= half;
    let at = select(column, column - half, second);
    let frequency = p.table[at >> 2u][at & 3u];
    let t = t_at(i / p.dim);
    let whole = floor(t);
    let fixed = bitcast<i32>(u32(i32(whole)) * frequency);
    let turns = f32(fixed) * 2.3283064365386963e-10 + (t - whole) * (f32(frequency) * 2.3283064365386963e-10);
    let quarter = round(turns * 4.0);
    let x = (turns - quarter * 0.25) * 6.283185307179586;
    // sin runs through the quarters as sin, cos, -sin, -cos; cos is one ahead.
    let cosine = second != (p.flip > 0u);
    let place = bitcast<u32>(i32(quarter) + select(0, 1, cosine)) & 3u;
    let v = select(small_sin(x), small_cos(x), (place & 1u) == 1u);
    out_put(i, select(v, -v, place >= 2u));
}

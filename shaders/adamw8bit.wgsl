// One AdamW update with moments in blocks of 64 bytes and a scale, in place; a block a thread. A byte q stands for
// scale * sign(q) * (q / 127)^2 in the first moment, for scale * (q / 255)^4 in the second. Rounding is random, so that
// changes smaller than a step are kept on average. hyper: as in adamw.wgsl, then the number of the update.
fn noise(i: u32, step: u32) -> f32 {
    var h = i * 0x9e3779b1u + step * 0x85ebca77u;
    h = (h ^ (h >> 16u)) * 0x7feb352du;
    h = (h ^ (h >> 15u)) * 0x846ca68bu;
    return f32((h ^ (h >> 16u)) >> 8u) / 16777216.0;
}
fn first(scale: f32, word: u32) -> vec4<f32> {
    let q = unpack4x8snorm(word);
    return scale * q * abs(q);
}
fn second(scale: f32, word: u32) -> vec4<f32> {
    let q = unpack4x8unorm(word);
    return scale * (q * q) * (q * q);
}
// The code of x / scale, x within [0, scale], whose value is (q / most)^power, at random between its neighbours.
fn code2(ratio: f32, random: f32) -> u32 {
    let low = floor(sqrt(ratio) * 127.0);
    let a = low * low;
    let b = (low + 1.0) * (low + 1.0);
    return u32(min(select(low, low + 1.0, ratio * 16129.0 - a > random * (b - a)), 127.0));
}
fn code4(ratio: f32, random: f32) -> u32 {
    let low = floor(sqrt(sqrt(ratio)) * 255.0);
    let a = low * low * low * low;
    let next = low + 1.0;
    let b = next * next * next * next;
    // Zero would divide by nothing: what is there at all keeps the smallest code.
    return u32(clamp(select(low, next, ratio * 4228250625.0 - a > random * (b - a)), 1.0, 255.0));
}
@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) nw: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let block = linear_workgroup(w, nw) * 64u + lane;
    if block >= p.blocks { return; }
    let words = min(16u, p.vectors - block * 16u);
    let base = block * 17u;
    let step = u32(hyper_at(8u));
    let m_scale = bitcast<f32>(m_at(base));
    let v_scale = bitcast<f32>(v_at(base));
    var m_top = 0.0;
    var v_top = 0.0;
    for (var k = 0u; k < words; k++) {
        let g = grad_at4(block * 16u + k) * clip_at(0u);
        let m = abs(hyper_at(1u) * first(m_scale, m_at(base + 1u + k)) + hyper_at(6u) * g);
        let v = hyper_at(2u) * second(v_scale, v_at(base + 1u + k)) + hyper_at(7u) * g * g;
        m_top = max(m_top, max(max(m.x, m.y), max(m.z, m.w)));
        v_top = max(v_top, max(max(v.x, v.y), max(v.z, v.w)));
    }
    let m_part = select(0.0, 1.0 / m_top, m_top > 0.0);
    let v_part = select(0.0, 1.0 / v_top, v_top > 0.0);
    for (var k = 0u; k < words; k++) {
        let at = block * 16u + k;
        let g = grad_at4(at) * clip_at(0u);
        let m = hyper_at(1u) * first(m_scale, m_at(base + 1u + k)) + hyper_at(6u) * g;
        let v = hyper_at(2u) * second(v_scale, v_at(base + 1u + k)) + hyper_at(7u) * g * g;
        param_put4(at, param_at4(at) * hyper_at(4u) - hyper_at(0u) * m / (sqrt(v) * hyper_at(5u) + hyper_at(3u)));
        var m_word = 0u;
        var v_word = 0u;
        //% for c in range(4)
        {
            let q = code2(abs(m[{{ c }}]) * m_part, noise(8u * at + {{ c }}u, step));
            m_word |= (select(q, 256u - q, m[{{ c }}] < 0.0 && q > 0u) & 255u) << {{ 8 * c }}u;
            let r = code4(v[{{ c }}] * v_part, noise(8u * at + {{ c + 4 }}u, step));
            v_word |= select(0u, r, v[{{ c }}] > 0.0) << {{ 8 * c }}u;
        }
        //% endfor
        m_put(base + 1u + k, m_word);
        v_put(base + 1u + k, v_word);
    }
    m_put(base, bitcast<u32>(m_top));
    v_put(base, bitcast<u32>(v_top));
}

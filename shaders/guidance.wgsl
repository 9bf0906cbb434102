// Guidance whose spread is that of the prompt's own output. Values: stage.
@compute @workgroup_size(32)
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) nw: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let group = linear_workgroup(w, nw);
    let i = group * 32u + lane;
    //% if stage == "sums"
    // Sums and sums of squares of one chunk, from the sample's first values, so that a mean far above the spread keeps its
    // digits. Neighbouring threads read neighbouring numbers.
    if i >= p.samples * p.threads { return; }
    let first = i / p.threads * p.each;
    let start = i % p.threads / 32u * 32u * p.chunk;
    let scale = guidance_at(0u);
    let shift = guided(first, scale);
    var sums = vec2<f32>(0.0);
    var squares = vec2<f32>(0.0);
    for (var k = start + lane; k < min(start + 32u * p.chunk, p.each); k += 32u) {
        let v = guided(first + k, scale) - shift;
        sums += v;
        squares += v * v;
    }
    partial_put4(i, vec4<f32>(sums, squares));
    //% elif stage == "factor"
    if i >= p.samples { return; }
    var total = vec4<f32>(0.0);
    for (var k = i * p.threads; k < (i + 1u) * p.threads; k++) { total += partial_at4(k); }
    let spread = sqrt(max(total.zw - total.xy * total.xy / f32(p.each), vec2<f32>(0.0)));
    let rescale = guidance_at(1u);
    // Without a spread there is nothing to bring back.
    let ratio = select(1.0, spread.x / spread.y, spread.y > 0.0);
    factor_put(i, rescale * ratio + 1.0 - rescale);
    //% else
    if i < p.count { out_put(i, guided(i, guidance_at(0u)).y * factor_at(i / p.each)); }
    //% endif
}
//% if stage != "factor"

// The prompt's own output and the guided one.
fn guided(i: u32, scale: f32) -> vec2<f32> {
    let without = output_at(i);
    let with_prompt = output_at(p.count + i);
    return vec2<f32>(with_prompt, without + scale * (with_prompt - without));
}
//% endif

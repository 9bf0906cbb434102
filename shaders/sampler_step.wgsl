// One sampler step. Values: stage; for `step` S (slots) guided.
@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) nw: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = linear_workgroup(w, nw) * 64u + lane;
    //% if stage == "pack"
    if i < p.entries { packed_put(i, matrix_at(i)); }
    if i == p.entries { packed_put(i, guidance_at(0u)); }
    //% else
    if i >= p.count { return; }
    //% for s in range(S)
    let t{{ s }} = s{{ s }}_at(i);
    //% endfor
    //% if guided
    let without = output_at(i);
    let t{{ S }} = without + packed_at({{ S * (S + 2) }}u) * (output_at(p.count + i) - without);
    //% else
    let t{{ S }} = output_at(i);
    //% endif
    let t{{ S + 1 }} = noise_at(i);
    //% for row in range(S)
    var v{{ row }} = 0.0;
    //% for column in range(S + 2)
    v{{ row }} += packed_at({{ row * (S + 2) + column }}u) * t{{ column }};
    //% endfor
    s{{ row }}_put(i, v{{ row }});
    //% endfor
    //% endif
}

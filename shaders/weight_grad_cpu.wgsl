// out[n, tap, c] = alpha * sum over positions of d[position, n] * x[row that tap reaches from position, c], for software
// drivers: one TM x TN register tile of one tap a thread. Values: TM TN WG d_vec x_vec geometry.
//% set xyzw = ["x", "y", "z", "w"]
//% macro accumulate()
    //% if d_vec
    //% for v in range(TM // 4)
    let d{{ v }} = d_at4((dr + n{{ v * 4 }}) >> 2u);
    //% endfor
    //% else
    //% for i in range(TM)
    let d{{ i }} = d_at(dr + n{{ i }});
    //% endfor
    //% endif
    //% if x_vec
    //% for v in range(TN // 4)
    let x{{ v }} = x_at4((xr + k{{ v * 4 }}) >> 2u);
    //% endfor
    //% else
    //% for j in range(TN)
    let x{{ j }} = x_at(xr + k{{ j }});
    //% endfor
    //% endif
    //% for i in range(TM)
    //% for v in range(TN // 4)
    //% if x_vec
    c{{ i }}_{{ v }} += {{ "d" ~ (i // 4) ~ "." ~ xyzw[i % 4] if d_vec else "d" ~ i }} * x{{ v }};
    //% else
    c{{ i }}_{{ v }} += {{ "d" ~ (i // 4) ~ "." ~ xyzw[i % 4] if d_vec else "d" ~ i }} * vec4<f32>(x{{ v * 4 }}, x{{ v * 4 + 1 }}, x{{ v * 4 + 2 }}, x{{ v * 4 + 3 }});
    //% endif
    //% endfor
    //% endfor
//% endmacro
@compute @workgroup_size({{ WG }})
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) nw: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let tile = linear_workgroup(w, nw) * {{ WG }}u + lane;
    if tile >= p.tiles { return; }
    let tap = tile / (p.tiles_n * p.tiles_c);
    let within = tile - tap * (p.tiles_n * p.tiles_c);
    let tile_n = within / p.tiles_c;
    let n_first = tile_n * {{ TM }}u;
    let k_first = (within - tile_n * p.tiles_c) * {{ TN }}u;
    // Beyond the edge the last row or vector is repeated; its results are not stored.
    //% for i in range(TM)
    let n{{ i }} = min(n_first + {{ i }}u, p.n - {{ 4 if d_vec else 1 }}u);
    //% endfor
    //% for j in range(TN)
    let k{{ j }} = min(k_first + {{ j }}u, p.c - {{ 4 if x_vec else 1 }}u);
    //% endfor
    //% for i in range(TM)
    //% for v in range(TN // 4)
    var c{{ i }}_{{ v }} = vec4<f32>(0.0);
    //% endfor
    //% endfor
    //% if geometry == "rows"
    for (var m = 0u; m < p.rows; m++) {
        let dr = m * p.n;
        let xr = m * p.c;
        {{ accumulate() }}
    }
    //% else
    let kh = tap / p.kw;
    let kw = tap - kh * p.kw;
    for (var sample = 0u; sample < p.samples; sample++) {
        for (var oy = 0u; oy < p.out_h; oy++) {
            let y = i32(oy * p.stride + kh) - i32(p.pad_top);
            if y < 0 || y >= i32(p.in_h << p.up) { continue; }
            let line = (sample * p.in_h + (u32(y) >> p.up)) * p.in_w;
            for (var ox = 0u; ox < p.out_w; ox++) {
                let x = i32(ox * p.stride + kw) - i32(p.pad_left);
                if x < 0 || x >= i32(p.in_w << p.up) { continue; }
                let dr = ((sample * p.out_h + oy) * p.out_w + ox) * p.n;
                let xr = (line + (u32(x) >> p.up)) * p.c;
                {{ accumulate() }}
            }
        }
    }
    //% endif
    //% for i in range(TM)
    if n_first + {{ i }}u < p.n {
        let at = (n_first + {{ i }}u) * p.out_row + tap * p.out_tap + p.out_first + k_first;
        //% for j in range(TN)
        if k_first + {{ j }}u < p.c { out_put(at + {{ j }}u, p.alpha * c{{ i }}_{{ j // 4 }}.{{ xyzw[j % 4] }}); }
        //% endfor
    }
    //% endfor
}

// out[n, tap, c] = alpha * sum over positions m of d[m, n] * x[row that tap reaches from m, c], for software drivers: one
// TM x TN register tile of one tap a thread, four positions at a time.
//
// Values: TM TN WG SG d_vec x_vec geometry. SG = 0: every thread has a tile of its own. SG > 0 is the adapter's subgroup
// size, WG = SG, TM a multiple of it: a workgroup takes a TM x (SG * TN) tile, its threads neighbouring columns; each loads
// a part of d's row and hands it round with subgroupBroadcast.
// Uniforms: tiles (threads, or with SG workgroups, that have work) tiles_n tiles_c n c out_row out_tap out_first rows alpha,
// and with geometry "conv" out_h out_w in_h in_w kw stride pad_top pad_left up.
//% set SG = SG if SG is defined else 0
//% set xyzw = ["x", "y", "z", "w"]
//% set d_wide = d_vec and TM % ([4 * SG, 4] | max) == 0
//% set x_wide = x_vec and TN % 4 == 0
//% set span = (4 if d_wide else 1)
//% set parts = TM // (span * ([SG, 1] | max))
//% set block = [1, 32 // TN] | max
//% set block = block if TM % block == 0 else 1
@compute @workgroup_size({{ WG }})
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) nw: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    //% if SG
    let tile = linear_workgroup(w, nw);
    //% else
    let tile = linear_workgroup(w, nw) * {{ WG }}u + lane;
    //% endif
    if tile >= p.tiles { return; }
    let tap = tile / (p.tiles_n * p.tiles_c);
    let within = tile - tap * (p.tiles_n * p.tiles_c);
    let tile_n = within / p.tiles_c;
    let n_first = tile_n * {{ TM }}u;
    //% if SG
    let c_first = ((within - tile_n * p.tiles_c) * {{ SG }}u + lane) * {{ TN }}u;
    //% else
    let c_first = (within - tile_n * p.tiles_c) * {{ TN }}u;
    //% endif
    // Beyond the edge the last element or vector is repeated; its results are not stored.
    //% for i in range(parts)
    let n{{ i }} = min(n_first + {{ "(" ~ (i * SG) ~ "u + lane) * " ~ span ~ "u" if SG else (i * span) ~ "u" }}, p.n - {{ span }}u);
    //% endfor
    //% for j in range(0, TN, 4 if x_wide else 1)
    let k{{ j }} = min(c_first + {{ j }}u, p.c - {{ 4 if x_wide else 1 }}u);
    //% endfor
    //% for i in range(TM)
    //% for j in range(TN)
    var c{{ i }}_{{ j }} = 0.0;
    //% endfor
    //% endfor
    //% if geometry != "rows"
    let kh = tap / p.kw;
    let kw = tap - kh * p.kw;
    var sample = 0u;
    var oy = 0u;
    var ox = 0u;
    //% endif
    for (var m = 0u; m < p.rows; m += 4u) {
        //% for u in range(4)
        // r{u}: the position's row of x, or zeros where it has none. What lies above or left of the image wraps to a
        // number beyond it.
        let m{{ u }} = min(m + {{ u }}u, p.rows - 1u);
        //% if geometry == "rows"
        let inside{{ u }} = m + {{ u }}u < p.rows;
        let r{{ u }} = m{{ u }} * p.c;
        //% else
        let y{{ u }} = oy * p.stride + kh - p.pad_top;
        let x{{ u }} = ox * p.stride + kw - p.pad_left;
        let inside{{ u }} = (m + {{ u }}u < p.rows) & (y{{ u }} < (p.in_h << p.up)) & (x{{ u }} < (p.in_w << p.up));
        let r{{ u }} = select(0u, (sample * p.in_h + (y{{ u }} >> p.up)) * p.in_w + (x{{ u }} >> p.up), inside{{ u }}) * p.c;
        let wraps{{ u }} = ox + 1u == p.out_w;
        ox = select(ox + 1u, 0u, wraps{{ u }});
        oy += select(0u, 1u, wraps{{ u }});
        let next{{ u }} = oy == p.out_h;
        oy = select(oy, 0u, next{{ u }});
        sample += select(0u, 1u, next{{ u }});
        //% endif
        //% endfor
        // w{j}: the four positions of column j.
        //% if x_wide
        //% for v in range(0, TN, 4)
        //% for u in range(4)
        let q{{ v }}_{{ u }} = select(vec4<f32>(0.0), x_at4((r{{ u }} + k{{ v }}) >> 2u), inside{{ u }});
        //% endfor
        //% for j in range(4)
        let w{{ v + j }} = vec4<f32>(q{{ v }}_0.{{ xyzw[j] }}, q{{ v }}_1.{{ xyzw[j] }}, q{{ v }}_2.{{ xyzw[j] }}, q{{ v }}_3.{{ xyzw[j] }});
        //% endfor
        //% endfor
        //% else
        //% for j in range(TN)
        let w{{ j }} = vec4<f32>(
            //% for u in range(4)
            select(0.0, x_at(r{{ u }} + k{{ j }}), inside{{ u }}),
            //% endfor
        );
        //% endfor
        //% endif
        //% for i in range(parts)
        //% if d_wide
        //% for u in range(4)
        let p{{ i }}_{{ u }} = d_at4((m{{ u }} * p.n + n{{ i }}) >> 2u);
        //% endfor
        //% for s in range(4)
        let d{{ i }}_{{ s }} = vec4<f32>(p{{ i }}_0.{{ xyzw[s] }}, p{{ i }}_1.{{ xyzw[s] }}, p{{ i }}_2.{{ xyzw[s] }}, p{{ i }}_3.{{ xyzw[s] }});
        //% endfor
        //% else
        let d{{ i }}_0 = vec4<f32>(d_at(m0 * p.n + n{{ i }}), d_at(m1 * p.n + n{{ i }}), d_at(m2 * p.n + n{{ i }}), d_at(m3 * p.n + n{{ i }}));
        //% endif
        //% endfor
        //% if SG
        // A loop over the four positions, not four times the code: a first run waits until it is compiled.
        for (var u = 0u; u < 4u; u++) {
            //% for i in range(parts)
            //% for s in range(span)
            let e{{ i }}_{{ s }} = d{{ i }}_{{ s }}[u];
            //% endfor
            //% endfor
            //% for j in range(TN)
            let t{{ j }} = w{{ j }}[u];
            //% endfor
            //% for i in range(TM)
            {
                let e = subgroupBroadcast(e{{ i // (span * SG) }}_{{ i % span }}, {{ i // span % SG }}u);
                //% for j in range(TN)
                c{{ i }}_{{ j }} = fma(e, t{{ j }}, c{{ i }}_{{ j }});
                //% endfor
            }
            //% endfor
        }
        //% else
        //% for i in range(TM)
        //% for j in range(TN)
        c{{ i }}_{{ j }} += dot(d{{ i // span }}_{{ i % span }}, w{{ j }});
        //% endfor
        //% endfor
        //% endif
    }
    // A loop over blocks of rows, the others moving up: unrolled over the tile it would be most of what a driver compiles.
    let n_end = min(n_first + {{ TM }}u, p.n);
    for (var top = n_first; top < n_end; top += {{ block }}u) {
        //% for i in range([block, TM] | min)
        if top + {{ i }}u < n_end {
            let at = (top + {{ i }}u) * p.out_row + tap * p.out_tap + p.out_first + c_first;
            //% for j in range(TN)
            if c_first + {{ j }}u < p.c { out_put(at + {{ j }}u, p.alpha * c{{ i }}_{{ j }}); }
            //% endfor
        }
        //% endfor
        //% for i in range(TM - block)
        //% for j in range(TN)
        c{{ i }}_{{ j }} = c{{ i + block }}_{{ j }};
        //% endfor
        //% endfor
    }
}

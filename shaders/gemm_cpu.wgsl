// out[m, n] = epilogue(sum over taps and k of a(m, tap, k) * b(tap, k, n)), for software drivers: one TM x TN register
// tile a thread, no workgroup memory.
//
// a: rows of `x` (and then of `x2`): row m itself, or with `geometry` the row of the picture that tap reaches.
// b: index = k * b_k + tap * b_tap + b_col0 + n * b_n; `b` says which of k ("nk") and n ("kn") is contiguous.
// Values: TM TN WG lanes x_vec x2_vec b_vec out_vec geometry b x2 bias add lora activation geglu batched.
//% include "lib/activation.wgsl"
//% include "lib/geometry.wgsl"
//% set xyzw = ["x", "y", "z", "w"]
//% set cols = (TN // 2) if geglu else TN
//% macro load_x(name, i, vec)
//% if vec
{{ name }}_at4((r{{ i }} + k) >> 2u)
//% else
vec4<f32>({{ name }}_at(r{{ i }} + k), {{ name }}_at(r{{ i }} + k + 1u), {{ name }}_at(r{{ i }} + k + 2u), {{ name }}_at(r{{ i }} + k + 3u))
//% endif
//% endmacro

@compute @workgroup_size({{ WG }})
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) nw: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let tile = linear_workgroup(w, nw) * {{ WG }}u + lane;
    if tile >= p.tiles { return; }
    //% if batched
    let batch = tile / (p.tiles_m * p.tiles_n);
    //% else
    let batch = 0u;
    //% endif
    let within = tile - batch * (p.tiles_m * p.tiles_n);
    //% if lanes == "m"
    let tile_n = within / p.tiles_m;
    let m_first = (within - tile_n * p.tiles_m) * {{ TM }}u;
    let n_first = tile_n * {{ cols }}u;
    //% else
    let tile_m = within / p.tiles_n;
    let n_first = (within - tile_m * p.tiles_n) * {{ cols }}u;
    let m_first = tile_m * {{ TM }}u;
    //% endif
    // Rows and columns beyond the edge repeat the last one; their results are not stored.
    //% for i in range(TM)
    let m{{ i }} = min(m_first + {{ i }}u, p.m - 1u);
    //% if geometry != "rows"
    let at{{ i }} = position(m{{ i }});
    //% endif
    //% endfor
    //% for j in range(TN)
    //% if geglu and j >= cols
    let n{{ j }} = min(n_first + {{ j - cols }}u, p.n - 1u) + p.n;
    //% else
    let n{{ j }} = min(n_first + {{ j }}u, p.n - 1u);
    //% endif
    let b{{ j }} = batch * p.b_batch + p.b_col0 + n{{ j }} * p.b_n;
    //% endfor
    //% for i in range(TM)
    //% for j in range(TN)
    var c{{ i }}_{{ j }} = 0.0;
    //% endfor
    //% endfor
    for (var tap = 0u; tap < p.taps; tap++) {
        //% for source in (["x", "x2"] if x2 else ["x"])
        //% set width = "p.c1" if source == "x" else "p.c2"
        //% set vec = x_vec if source == "x" else x2_vec
        {
            //% for i in range(TM)
            //% if geometry == "rows"
            let r{{ i }} = batch * p.a_batch + m{{ i }} * {{ width }};
            //% else
            let s{{ i }} = source_row(at{{ i }}, tap);
            let r{{ i }} = u32(max(s{{ i }}, 0)) * {{ width }};
            //% endif
            //% endfor
            let kb = tap * p.b_tap{{ " + p.c1 * p.b_k" if source == "x2" else "" }};
            var k = 0u;
            for (; k + 4u <= {{ width }}; k += 4u) {
                //% for i in range(TM)
                //% if geometry == "rows"
                let a{{ i }} = {{ load_x(source, i, vec) }};
                //% else
                let a{{ i }} = select(vec4<f32>(0.0), {{ load_x(source, i, vec) }}, s{{ i }} >= 0);
                //% endif
                //% endfor
                //% if b == "nk"
                //% for j in range(TN)
                //% if b_vec
                let w{{ j }} = w_at4((b{{ j }} + kb + k) >> 2u);
                //% else
                let o{{ j }} = b{{ j }} + kb + k;
                let w{{ j }} = vec4<f32>(w_at(o{{ j }}), w_at(o{{ j }} + 1u), w_at(o{{ j }} + 2u), w_at(o{{ j }} + 3u));
                //% endif
                //% for i in range(TM)
                c{{ i }}_{{ j }} += dot(a{{ i }}, w{{ j }});
                //% endfor
                //% endfor
                //% else
                //% for kk in range(4)
                {
                    let row = kb + (k + {{ kk }}u) * p.b_k;
                    //% if b_vec
                    //% for v in range(TN // 4)
                    let w{{ v }} = w_at4((b{{ v * 4 }} + row) >> 2u);
                    //% endfor
                    //% endif
                    //% for j in range(TN)
                    //% if not b_vec
                    let w{{ j }} = w_at(b{{ j }} + row);
                    //% endif
                    //% for i in range(TM)
                    c{{ i }}_{{ j }} += a{{ i }}.{{ xyzw[kk] }} * {{ "w" ~ (j // 4) ~ "." ~ xyzw[j % 4] if b_vec else "w" ~ j }};
                    //% endfor
                    //% endfor
                }
                //% endfor
                //% endif
            }
            for (; k < {{ width }}; k++) {
                //% for i in range(TM)
                //% if geometry == "rows"
                let a{{ i }} = {{ source }}_at(r{{ i }} + k);
                //% else
                let a{{ i }} = select(0.0, {{ source }}_at(r{{ i }} + k), s{{ i }} >= 0);
                //% endif
                //% endfor
                //% for j in range(TN)
                let w{{ j }} = w_at(b{{ j }} + kb + k * p.b_k);
                //% for i in range(TM)
                c{{ i }}_{{ j }} += a{{ i }} * w{{ j }};
                //% endfor
                //% endfor
            }
        }
        //% endfor
    }
    //% include "lib/gemm_epilogue.wgsl"
}

// out[m, n] = epilogue(sum over taps and k of a(m, tap, k) * b(tap, k, n)), for software drivers: one TM x TN register
// tile a thread, no workgroup memory. There a load costs each lane some twenty cycles and an FMA next to none, so what
// counts is how many FMAs a load feeds.
//
// a: rows of `x`: row m itself, or with `geometry` the row of the image that tap reaches (a plain row is a pixel of a
// image of one line, under a window of one pixel: one kernel less). A second source is a second dispatch that adds.
// b: index = k * b_k + tap * b_tap + b_col0 + n * b_n; `b` says which of k ("nk") and n ("kn") is contiguous.
// Values: TM TN WG SG x_vec x_fours (four k at a time, for c1 of 4 and more) b_vec out_vec add_vec geometry b lora geglu
// batched.
// SG = 0: neighbouring threads take neighbouring rows. SG > 0 is the adapter's subgroup size, the same for every
// subgroup, WG = SG, and TM a multiple of it: a workgroup takes one TM x (SG * TN) tile, its threads neighbouring
// columns; each loads every SG-th row of a and hands it round with subgroupBroadcast.
// Uniforms: tiles (threads, or with SG workgroups, that have work) tiles_m tiles_n m n c1 taps b_k b_tap b_n b_col0 a_batch
// b_batch out_batch bias rank add_rows add_stride add_offset alpha lora_scale, and those of lib/geometry.
//% include "lib/activation.wgsl"
//% include "lib/geometry.wgsl"
//% set xyzw = ["x", "y", "z", "w"]
//% set cols = (TN // 2) if geglu else TN
//% set SG = SG if SG is defined else 0
//% set loads = (TM // SG) if SG else TM
//% macro load_x(i)
//% if x_vec
x_at4((r{{ i }} + k) >> 2u)
//% else
vec4<f32>(x_at(r{{ i }} + k), x_at(r{{ i }} + k + 1u), x_at(r{{ i }} + k + 2u), x_at(r{{ i }} + k + 3u))
//% endif
//% endmacro

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
    //% if batched
    let batch = tile / (p.tiles_m * p.tiles_n);
    //% else
    let batch = 0u;
    //% endif
    let within = tile - batch * (p.tiles_m * p.tiles_n);
    let tile_n = within / p.tiles_m;
    let m_first = (within - tile_n * p.tiles_m) * {{ TM }}u;
    //% if SG
    let n_first = (tile_n * {{ SG }}u + lane) * {{ cols }}u;
    //% else
    let n_first = tile_n * {{ cols }}u;
    //% endif
    // Rows and columns beyond the edge repeat the last one; their results are not stored.
    //% for i in range(loads)
    //% if SG
    let from{{ i }} = min(m_first + {{ i * SG }}u + lane, p.m - 1u);
    //% else
    let from{{ i }} = min(m_first + {{ i }}u, p.m - 1u);
    //% endif
    //% if geometry != "rows"
    let at{{ i }} = position(from{{ i }});
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
        //% for i in range(loads)
        //% if geometry == "rows"
        let r{{ i }} = batch * p.a_batch + from{{ i }} * p.c1;
        //% else
        let s{{ i }} = source_row(at{{ i }}, tap);
        let r{{ i }} = u32(max(s{{ i }}, 0)) * p.c1;
        //% endif
        //% endfor
        let kb = tap * p.b_tap;
        var k = 0u;
        //% if x_vec or x_fours
        for (; k + 4u <= p.c1; k += 4u) {
            //% for i in range(loads)
            //% if geometry == "rows"
            let a{{ i }} = {{ load_x(i) }};
            //% else
            let a{{ i }} = select(vec4<f32>(0.0), {{ load_x(i) }}, s{{ i }} >= 0);
            //% endif
            //% endfor
            // w{j}: the four k of column j.
            //% if b == "nk"
            //% for j in range(TN)
            //% if b_vec
            let w{{ j }} = w_at4((b{{ j }} + kb + k) >> 2u);
            //% else
            let o{{ j }} = b{{ j }} + kb + k;
            let w{{ j }} = vec4<f32>(w_at(o{{ j }}), w_at(o{{ j }} + 1u), w_at(o{{ j }} + 2u), w_at(o{{ j }} + 3u));
            //% endif
            //% endfor
            //% else
            let o0 = kb + k * p.b_k;
            let o1 = o0 + p.b_k;
            let o2 = o1 + p.b_k;
            let o3 = o2 + p.b_k;
            //% if b_vec
            //% for v in range(TN // 4)
            //% for kk in range(4)
            let q{{ v }}_{{ kk }} = w_at4((b{{ v * 4 }} + o{{ kk }}) >> 2u);
            //% endfor
            //% for j in range(4)
            let w{{ v * 4 + j }} = vec4<f32>(q{{ v }}_0.{{ xyzw[j] }}, q{{ v }}_1.{{ xyzw[j] }}, q{{ v }}_2.{{ xyzw[j] }}, q{{ v }}_3.{{ xyzw[j] }});
            //% endfor
            //% endfor
            //% else
            //% for j in range(TN)
            let w{{ j }} = vec4<f32>(w_at(b{{ j }} + o0), w_at(b{{ j }} + o1), w_at(b{{ j }} + o2), w_at(b{{ j }} + o3));
            //% endfor
            //% endif
            //% endif
            //% if SG
            //% for i in range(TM)
            {
                let e = subgroupBroadcast(a{{ i // SG }}, {{ i % SG }}u);
                //% for j in range(TN)
                c{{ i }}_{{ j }} += dot(e, w{{ j }});
                //% endfor
            }
            //% endfor
            //% else
            //% for j in range(TN)
            //% for i in range(TM)
            c{{ i }}_{{ j }} += dot(a{{ i }}, w{{ j }});
            //% endfor
            //% endfor
            //% endif
        }
        //% endif
        //% if not x_vec
        for (; k < p.c1; k++) {
            //% for i in range(loads)
            //% if geometry == "rows"
            let a{{ i }} = x_at(r{{ i }} + k);
            //% else
            let a{{ i }} = select(0.0, x_at(r{{ i }} + k), s{{ i }} >= 0);
            //% endif
            //% endfor
            //% for j in range(TN)
            let w{{ j }} = w_at(b{{ j }} + kb + k * p.b_k);
            //% endfor
            //% for i in range(TM)
            //% if SG
            let e{{ i }} = subgroupBroadcast(a{{ i // SG }}, {{ i % SG }}u);
            //% else
            let e{{ i }} = a{{ i }};
            //% endif
            //% for j in range(TN)
            c{{ i }}_{{ j }} += e{{ i }} * w{{ j }};
            //% endfor
            //% endfor
        }
        //% endif
    }
    //% set activation = ""
    //% include "lib/gemm_epilogue.wgsl"
}

// out[m, n] = epilogue(sum over taps and k of a(m, tap, k) * b(tap, k, n)), for hardware: a workgroup takes a BM x BN tile and
// walks the contraction in steps of BK through workgroup memory; a thread holds TM x TN of the tile in registers, as groups
// of four rows and columns, GM and GN apart, so that neighbouring threads read neighbouring vectors.
//
// Operands as in gemm_cpu. Both are kept [k][row or column] in workgroup memory; whichever lies along k in its buffer is
// turned in registers, four by four.
// Values: BM BN BK TM TN x_vec x2_vec b_vec k_whole out_vec add_vec geometry b x2 lora activation geglu batched split.
// Threads: BM / TM * BN / TN. Workgroup memory: 4 * BK * (BM + BN) bytes and some padding.
// k_whole: c1 and c2 are multiples of BK. geglu: TN = 8, and half of BN's columns are gates.
// split > 0: the contraction is cut into p.splits parts; part s writes its bare sums to out[s][m][n] for gemm_reduce.
// Uniforms: those of gemm_cpu, with tiles counting workgroups (times splits), and splits.
//% include "lib/activation.wgsl"
//% if activation in ["gelu_tanh", "relu"]
//% include "lib/activation_more.wgsl"
//% endif
//% include "lib/geometry.wgsl"
//% set xyzw = ["x", "y", "z", "w"]
//% set cols = (TN // 2) if geglu else TN
//% set tile_cols = (BN // 2) if geglu else BN
//% set THREADS = BM // TM * (BN // TN)
//% set GM = BM * 4 // TM
//% set GN = BN * 4 // TN
//% set PA = BM // 4
//% set PB = BN // 4
// Vectors between the rows of k in workgroup memory, and two more after every fourth so that turned blocks spread over
// the banks.
//% set x_blocks = PA * BK // 4
//% set b_blocks = PB * BK // 4
//% set x_turns = (x_blocks + THREADS - 1) // THREADS
//% set b_turns = (b_blocks + THREADS - 1) // THREADS
//% set b_vectors = (BK * PB + THREADS - 1) // THREADS
//% set b_turns = (b_vectors + 3) // 4 if b == "kn" else b_turns
//% set sources = ["x", "x2"] if x2 else ["x"]
var<workgroup> tile_a: array<vec4<f32>, {{ BK * PA + BK // 2 }}>;
var<workgroup> tile_b: array<vec4<f32>, {{ BK * PB + BK // 2 }}>;

@compute @workgroup_size({{ THREADS }})
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) nw: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let tile = linear_workgroup(w, nw);
    if tile >= p.tiles { return; }
    let tiles = p.tiles_m * p.tiles_n;
    //% if batched or split
    let part = tile / tiles;
    let within = tile - part * tiles;
    //% else
    let within = tile;
    //% endif
    //% if batched
    let batch = part;
    //% else
    let batch = 0u;
    //% endif
    let tile_n = within / p.tiles_m;
    let m_tile = (within - tile_n * p.tiles_m) * {{ BM }}u;
    let n_tile = tile_n * {{ tile_cols }}u;
    let thread_n = lane % {{ BN // TN }}u;
    let thread_m = lane / {{ BN // TN }}u;

    // Loading: thread `lane` takes 4 x 4 block lane + i * THREADS of a's tile and of b's.
    let x_k = lane % {{ BK // 4 }}u * 4u;
    //% for i in range(x_turns)
    let x_m{{ i }} = lane / {{ BK // 4 }}u + {{ i * THREADS * 4 // BK }}u;
    let x_to{{ i }} = x_k * {{ PA }}u + x_k / 2u + x_m{{ i }};
    //% for s in range(4)
    let x_row{{ i }}{{ s }} = min(m_tile + x_m{{ i }} * 4u + {{ s }}u, p.m - 1u);
    //% if geometry != "rows"
    let x_at{{ i }}{{ s }} = position(x_row{{ i }}{{ s }});
    //% endif
    //% endfor
    //% endfor
    //% if b == "nk"
    let b_k = lane % {{ BK // 4 }}u * 4u;
    //% for i in range(b_turns)
    let b_n{{ i }} = lane / {{ BK // 4 }}u + {{ i * THREADS * 4 // BK }}u;
    let b_to{{ i }} = b_k * {{ PB }}u + b_k / 2u + b_n{{ i }};
    //% for s in range(4)
    //% if geglu
    let b_half{{ i }}{{ s }} = (b_n{{ i }} * 4u) / {{ tile_cols }}u;
    let b_col{{ i }}{{ s }} = min(n_tile + b_n{{ i }} * 4u + {{ s }}u - b_half{{ i }}{{ s }} * {{ tile_cols }}u, p.n - 1u) + b_half{{ i }}{{ s }} * p.n;
    //% else
    let b_col{{ i }}{{ s }} = min(n_tile + b_n{{ i }} * 4u + {{ s }}u, p.n - 1u);
    //% endif
    let b_from{{ i }}{{ s }} = batch * p.b_batch + p.b_col0 + b_col{{ i }}{{ s }} * p.b_n;
    //% endfor
    //% endfor
    //% else
    let b_k = lane / {{ PB }}u;
    let b_v = lane % {{ PB }}u;
    let b_to = b_k * {{ PB }}u + b_v;
    //% if geglu
    let b_half = (b_v * 4u) / {{ tile_cols }}u;
    let b_first = n_tile + b_v * 4u - b_half * {{ tile_cols }}u;
    let b_gate = b_half * p.n;
    //% else
    let b_first = n_tile + b_v * 4u;
    let b_gate = 0u;
    //% endif
    //% for s in range(1 if b_vec else 4)
    let b_from0{{ s }} = batch * p.b_batch + p.b_col0 + b_gate + min(b_first + {{ s }}u, p.n - {{ 4 if b_vec else 1 }}u);
    //% endfor
    //% endif

    // The place in the contraction: tap, source and k.
    let steps1 = (p.c1 + {{ BK - 1 }}u) / {{ BK }}u;
    //% if x2
    let steps_tap = steps1 + (p.c2 + {{ BK - 1 }}u) / {{ BK }}u;
    //% else
    let steps_tap = steps1;
    //% endif
    let steps = p.taps * steps_tap;
    //% if split
    let share = (steps + p.splits - 1u) / p.splits;
    let start = part * share;
    let end = min(start + share, steps);
    //% else
    let start = 0u;
    let end = steps;
    //% endif
    var tap = start / steps_tap;
    var k = (start - tap * steps_tap) * {{ BK }}u;
    //% if x2
    var second = k >= steps1 * {{ BK }}u;
    if second { k -= steps1 * {{ BK }}u; }
    //% endif
    var moved = true;
    //% for i in range(x_turns)
    //% for s in range(4)
    var x_from{{ i }}{{ s }} = 0u;
    //% if geometry != "rows"
    var x_in{{ i }}{{ s }} = true;
    //% endif
    var a{{ i }}{{ s }} = vec4<f32>(0.0);
    //% endfor
    //% endfor
    //% for i in range(b_turns)
    //% for s in range(4)
    var b{{ i }}{{ s }} = vec4<f32>(0.0);
    //% endfor
    //% endfor
    //% for i in range(TM)
    //% for v in range(TN // 4)
    var c{{ i }}_{{ v }} = vec4<f32>(0.0);
    //% endfor
    //% endfor
    for (var step = start; step < end; step++) {
        if moved {
            moved = false;
            //% set width = "select(p.c1, p.c2, second)" if x2 else "p.c1"
            //% for i in range(x_turns)
            //% for s in range(4)
            //% if geometry == "rows"
            x_from{{ i }}{{ s }} = batch * p.a_batch + x_row{{ i }}{{ s }} * {{ width }};
            //% else
            let from{{ i }}{{ s }} = source_row(x_at{{ i }}{{ s }}, tap);
            x_in{{ i }}{{ s }} = from{{ i }}{{ s }} >= 0;
            x_from{{ i }}{{ s }} = u32(max(from{{ i }}{{ s }}, 0)) * {{ width }};
            //% endif
            //% endfor
            //% endfor
        }
        //% for source in sources
        //% set vec = x_vec if source == "x" else x2_vec
        //% set width = "p.c1" if source == "x" else "p.c2"
        //% if x2
        if second == {{ "false" if source == "x" else "true" }} {
        //% else
        {
        //% endif
            let at = k + x_k;
            //% for i in range(x_turns)
            {{ "if lane < " ~ (x_blocks - i * THREADS) ~ "u " if x_blocks < (i + 1) * THREADS else "" }}{
                //% for s in range(4)
                //% set from = "x_from" ~ i ~ s
                //% set inside = "x_in" ~ i ~ s if geometry != "rows" else ""
                //% if vec
                //% set whole = inside ~ (" & " if inside and not k_whole else "") ~ ("(at < " ~ width ~ ")" if not k_whole else "")
                //% if k_whole
                let v{{ s }} = {{ source }}_at4(({{ from }} + at) >> 2u);
                //% else
                let v{{ s }} = {{ source }}_at4(({{ from }} + min(at, {{ width }} - 4u)) >> 2u);
                //% endif
                a{{ i }}{{ s }} = {{ "select(vec4<f32>(0.0), v" ~ s ~ ", " ~ whole ~ ")" if whole else "v" ~ s }};
                //% else
                a{{ i }}{{ s }} = vec4<f32>(
                    //% for c in range(4)
                    select(0.0, {{ source }}_at({{ from }} + min(at + {{ c }}u, {{ width }} - 1u)), {{ inside ~ " & " if inside else "" }}(at + {{ c }}u < {{ width }})),
                    //% endfor
                );
                //% endif
                //% endfor
            }
            //% endfor
        }
        //% endfor
        {
            //% set offset = "(k + select(0u, p.c1, second))" if x2 else "k"
            //% set width = "select(p.c1, p.c2, second)" if x2 else "p.c1"
            let base = tap * p.b_tap + {{ offset }} * p.b_k;
            //% if b == "nk"
            let at = k + b_k;
            //% for i in range(b_turns)
            {{ "if lane < " ~ (b_blocks - i * THREADS) ~ "u " if b_blocks < (i + 1) * THREADS else "" }}{
                //% for s in range(4)
                //% set from = "b_from" ~ i ~ s ~ " + base"
                //% if b_vec and k_whole
                b{{ i }}{{ s }} = w_at4(({{ from }} + b_k) >> 2u);
                //% elif b_vec
                b{{ i }}{{ s }} = select(vec4<f32>(0.0), w_at4(({{ from }} + min(b_k, {{ width }} - 4u - k)) >> 2u), at < {{ width }});
                //% else
                b{{ i }}{{ s }} = vec4<f32>(
                    //% for c in range(4)
                    select(0.0, w_at({{ from }} + min(b_k + {{ c }}u, {{ width }} - 1u - k)), at + {{ c }}u < {{ width }}),
                    //% endfor
                );
                //% endif
                //% endfor
            }
            //% endfor
            //% else
            //% for i in range(b_vectors)
            //% set row = "(b_k + " ~ (i * (THREADS // PB)) ~ "u)"
            //% if (i + 1) * THREADS > BK * PB
            if lane < {{ BK * PB - i * THREADS }}u {
            //% else
            {
            //% endif
                //% if k_whole
                let row_ = base + {{ row }} * p.b_k;
                //% else
                let row_ = base + min({{ row }}, {{ width }} - 1u - k) * p.b_k;
                //% endif
                //% if b_vec
                let v = w_at4((b_from00 + row_) >> 2u);
                //% else
                let v = vec4<f32>(w_at(b_from00 + row_), w_at(b_from01 + row_), w_at(b_from02 + row_), w_at(b_from03 + row_));
                //% endif
                b{{ i // 4 }}{{ i % 4 }} = {{ "v" if k_whole else "select(vec4<f32>(0.0), v, k + " ~ row ~ " < " ~ width ~ ")" }};
            }
            //% endfor
            //% endif
        }
        workgroupBarrier();
        //% for i in range(x_turns)
        {{ "if lane < " ~ (x_blocks - i * THREADS) ~ "u " if x_blocks < (i + 1) * THREADS else "" }}{
            //% for s in range(4)
            tile_a[x_to{{ i }} + {{ s * PA }}u] = vec4<f32>(a{{ i }}0.{{ xyzw[s] }}, a{{ i }}1.{{ xyzw[s] }}, a{{ i }}2.{{ xyzw[s] }}, a{{ i }}3.{{ xyzw[s] }});
            //% endfor
        }
        //% endfor
        //% if b == "nk"
        //% for i in range(b_turns)
        {{ "if lane < " ~ (b_blocks - i * THREADS) ~ "u " if b_blocks < (i + 1) * THREADS else "" }}{
            //% for s in range(4)
            tile_b[b_to{{ i }} + {{ s * PB }}u] = vec4<f32>(b{{ i }}0.{{ xyzw[s] }}, b{{ i }}1.{{ xyzw[s] }}, b{{ i }}2.{{ xyzw[s] }}, b{{ i }}3.{{ xyzw[s] }});
            //% endfor
        }
        //% endfor
        //% else
        //% for i in range(b_vectors)
        //% if (i + 1) * THREADS > BK * PB
        if lane < {{ BK * PB - i * THREADS }}u {
        //% else
        {
        //% endif
            let at = b_to + {{ i * THREADS }}u + (b_k + {{ i * (THREADS // PB) }}u) / 4u * 2u;
            tile_b[at] = b{{ i // 4 }}{{ i % 4 }};
        }
        //% endfor
        //% endif
        workgroupBarrier();
        //% for kk in range(BK)
        {
            //% for g in range(TM // 4)
            let a{{ g }} = tile_a[thread_m + {{ kk * PA + kk // 4 * 2 + g * (BM // TM) }}u];
            //% endfor
            //% for v in range(TN // 4)
            let b{{ v }} = tile_b[thread_n + {{ kk * PB + kk // 4 * 2 + v * (BN // TN) }}u];
            //% endfor
            //% for i in range(TM)
            //% for v in range(TN // 4)
            c{{ i }}_{{ v }} += a{{ i // 4 }}.{{ xyzw[i % 4] }} * b{{ v }};
            //% endfor
            //% endfor
        }
        //% endfor
        k += {{ BK }}u;
        //% if x2
        if k >= select(p.c1, p.c2, second) {
            k = 0u;
            moved = true;
            if second { tap++; }
            second = !second;
        }
        //% else
        if k >= p.c1 {
            k = 0u;
            moved = true;
            tap++;
        }
        //% endif
    }

    let n_first = n_tile + thread_n * 4u;
    //% if split
    //% for i in range(TM)
    {
        let m = m_tile + thread_m * 4u + {{ i // 4 * GM + i % 4 }}u;
        if m < p.m {
            let row = part * p.m * p.n + m * p.n;
            //% for v in range(TN // 4)
            //% if out_vec
            if n_first + {{ v * GN }}u < p.n { out_put4((row + n_first + {{ v * GN }}u) >> 2u, c{{ i }}_{{ v }}); }
            //% else
            //% for s in range(4)
            if n_first + {{ v * GN + s }}u < p.n { out_put(row + n_first + {{ v * GN + s }}u, c{{ i }}_{{ v }}.{{ xyzw[s] }}); }
            //% endfor
            //% endif
            //% endfor
        }
    }
    //% endfor
    //% else
    //% set packed_ = true
    //% for j in range(TN)
    let n{{ j }} = min(n_first + {{ (j % cols) // 4 * GN + j % 4 }}u, p.n - 1u){{ " + p.n" if geglu and j >= cols else "" }};
    var bias{{ j }} = 0.0;
    if p.bias > 0u { bias{{ j }} = bias_at(n{{ j }}); }
    //% endfor
    //% for i in range(TM)
    let m{{ i }} = m_tile + thread_m * 4u + {{ i // 4 * GM + i % 4 }}u;
    //% endfor
    //% if lora
    for (var r = 0u; r < p.rank; r++) {
        //% for v in range(TN // 4)
        let u{{ v }} = vec4<f32>(up_at(n{{ v * 4 }} * p.rank + r), up_at(n{{ v * 4 + 1 }} * p.rank + r), up_at(n{{ v * 4 + 2 }} * p.rank + r), up_at(n{{ v * 4 + 3 }} * p.rank + r));
        //% endfor
        //% for i in range(TM)
        let h{{ i }} = p.lora_scale * hidden_at(min(m{{ i }}, p.m - 1u) * p.rank + r);
        //% for v in range(TN // 4)
        c{{ i }}_{{ v }} += h{{ i }} * u{{ v }};
        //% endfor
        //% endfor
    }
    //% endif
    //% set added = "((batch * p.m + m) / p.add_rows)"
    //% for i in range(TM)
    if m{{ i }} < p.m {
            let m = m{{ i }};
            //% include "lib/gemm_row.wgsl"
    }
    //% endfor
    //% endif
}

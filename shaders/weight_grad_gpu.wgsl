// out[n, tap, c] = alpha * sum over positions m of d[m, n] * x[row that tap reaches from m, c], for hardware: a workgroup
// takes a BM (n) x BN (c) tile of one tap and walks the positions BK at a time through workgroup memory, as gemm_gpu does.
// The rows of x are looked up once per step, one position a thread.
//
// Values: BM BN BK TM TN d_vec x_vec geometry split. Threads: BM / TM * BN / TN, at least BK. Uniforms: those of
// weight_grad_cpu (tiles counts workgroups) and splits: with split, part s of the positions goes to out[s][n][tap][c].
//% include "lib/geometry.wgsl"
//% set xyzw = ["x", "y", "z", "w"]
//% set THREADS = BM // TM * (BN // TN)
//% set PA = BM // 4
//% set PB = BN // 4
//% set d_turns = (BK * PA + THREADS - 1) // THREADS
//% set x_turns = (BK * PB + THREADS - 1) // THREADS
var<workgroup> tile_a: array<vec4<f32>, {{ BK * PA }}>;
var<workgroup> tile_b: array<vec4<f32>, {{ BK * PB }}>;
// Elements from the start of x to the row of each position; 0xffffffff where there is none.
var<workgroup> rows: array<u32, {{ BK }}>;

//% if geometry == "rows"
fn row_of(m: u32, tap: u32, end: u32) -> u32 { return select(0xffffffffu, m * p.c, m < end); }
//% else
fn row_of(m: u32, tap: u32, end: u32) -> u32 {
    let row = source_row(position(m), tap);
    return select(0xffffffffu, u32(row) * p.c, (m < end) & (row >= 0));
}
//% endif

@compute @workgroup_size({{ THREADS }})
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) nw: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let tile = linear_workgroup(w, nw);
    if tile >= p.tiles { return; }
    let tiles = p.tiles_n * p.tiles_c;
    //% if split
    let taps = p.tiles / (tiles * p.splits);
    let part = tile / (tiles * taps);
    let share = (p.rows + p.splits - 1u) / p.splits;
    let start = part * share;
    let end = min(start + share, p.rows);
    let tap = tile / tiles - part * taps;
    let within = tile % tiles;
    let out_base = part * p.n * p.out_row;
    //% else
    let start = 0u;
    let end = p.rows;
    let tap = tile / tiles;
    let within = tile - tap * tiles;
    let out_base = 0u;
    //% endif
    let tile_n = within / p.tiles_c;
    let n_tile = tile_n * {{ BM }}u;
    let c_tile = (within - tile_n * p.tiles_c) * {{ BN }}u;
    let thread_c = lane % {{ BN // TN }}u;
    let thread_n = lane / {{ BN // TN }}u;
    let d_k = lane / {{ PA }}u;
    let x_k = lane / {{ PB }}u;
    // Columns beyond the edge repeat the last; their results are not stored.
    //% for s in range(1 if d_vec else 4)
    let d_col{{ s }} = min(n_tile + lane % {{ PA }}u * 4u + {{ s }}u, p.n - {{ 4 if d_vec else 1 }}u);
    //% endfor
    //% for s in range(1 if x_vec else 4)
    let x_col{{ s }} = min(c_tile + lane % {{ PB }}u * 4u + {{ s }}u, p.c - {{ 4 if x_vec else 1 }}u);
    //% endfor
    //% for i in range(d_turns)
    var a{{ i }} = vec4<f32>(0.0);
    //% endfor
    //% for i in range(x_turns)
    var b{{ i }} = vec4<f32>(0.0);
    //% endfor
    //% for i in range(TM)
    //% for v in range(TN // 4)
    var c{{ i }}_{{ v }} = vec4<f32>(0.0);
    //% endfor
    //% endfor
    if lane < {{ BK }}u { rows[lane] = row_of(start + lane, tap, end); }
    workgroupBarrier();
    for (var m = start; m < end; m += {{ BK }}u) {
        //% for i in range(d_turns)
        {{ "if lane < " ~ (BK * PA - i * THREADS) ~ "u " if BK * PA < (i + 1) * THREADS else "" }}{
            // Rows past the end meet zeros of x, but must not be NaN.
            let base = min(m + d_k + {{ i * (THREADS // PA) }}u, end - 1u) * p.n;
            //% if d_vec
            a{{ i }} = d_at4((base + d_col0) >> 2u);
            //% else
            a{{ i }} = vec4<f32>(d_at(base + d_col0), d_at(base + d_col1), d_at(base + d_col2), d_at(base + d_col3));
            //% endif
        }
        //% endfor
        //% for i in range(x_turns)
        {{ "if lane < " ~ (BK * PB - i * THREADS) ~ "u " if BK * PB < (i + 1) * THREADS else "" }}{
            let row = rows[x_k + {{ i * (THREADS // PB) }}u];
            let inside = row != 0xffffffffu;
            let base = select(0u, row, inside);
            //% if x_vec
            b{{ i }} = select(vec4<f32>(0.0), x_at4((base + x_col0) >> 2u), inside);
            //% else
            b{{ i }} = select(vec4<f32>(0.0), vec4<f32>(x_at(base + x_col0), x_at(base + x_col1), x_at(base + x_col2), x_at(base + x_col3)), inside);
            //% endif
        }
        //% endfor
        workgroupBarrier();
        //% for i in range(d_turns)
        {{ "if lane < " ~ (BK * PA - i * THREADS) ~ "u " if BK * PA < (i + 1) * THREADS else "" }}{ tile_a[lane + {{ i * THREADS }}u] = a{{ i }}; }
        //% endfor
        //% for i in range(x_turns)
        {{ "if lane < " ~ (BK * PB - i * THREADS) ~ "u " if BK * PB < (i + 1) * THREADS else "" }}{ tile_b[lane + {{ i * THREADS }}u] = b{{ i }}; }
        //% endfor
        if lane < {{ BK }}u { rows[lane] = row_of(m + {{ BK }}u + lane, tap, end); }
        workgroupBarrier();
        //% for kk in range(BK)
        {
            //% for g in range(TM // 4)
            let a{{ g }} = tile_a[thread_n + {{ kk * PA + g * (BM // TM) }}u];
            //% endfor
            //% for v in range(TN // 4)
            let b{{ v }} = tile_b[thread_c + {{ kk * PB + v * (BN // TN) }}u];
            //% endfor
            //% for i in range(TM)
            //% for v in range(TN // 4)
            c{{ i }}_{{ v }} += a{{ i // 4 }}.{{ xyzw[i % 4] }} * b{{ v }};
            //% endfor
            //% endfor
        }
        //% endfor
    }
    //% for i in range(TM)
    {
        let n = n_tile + thread_n * 4u + {{ i // 4 * (BM * 4 // TM) + i % 4 }}u;
        if n < p.n {
            let at = out_base + n * p.out_row + tap * p.out_tap + p.out_first;
            //% for v in range(TN // 4)
            //% for s in range(4)
            {
                let c = c_tile + thread_c * 4u + {{ v * (BN * 4 // TN) + s }}u;
                if c < p.c { out_put(at + c, p.alpha * c{{ i }}_{{ v }}.{{ xyzw[s] }}); }
            }
            //% endfor
            //% endfor
        }
    }
    //% endfor
}

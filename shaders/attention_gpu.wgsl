// Attention for hardware, forward and backward, as tiles of a matrix product. A workgroup takes 4 * RG rows of one head
// (queries; for dkv keys) and walks the other side's tokens in tiles of 4 * KG. A thread (row group, token group) has 4 x 4
// of the tile's scores, for rows 4 * group + i and tokens group + KG * j, and CO vectors of each row's result.
//
// Scores are made from chunks of DC vectors of both sides in workgroup memory; what they become lies there too, [token][row],
// when it is multiplied with VK tokens' vectors at a time. C vectors are a head's.
// Values: stage (forward, dq, dkv) C RG KG CO DC VK causal. DC divides C; VK is a multiple of 4 that divides 4 * KG.
// Uniforms: workgroups heads queries keys q_width k_width v_width q_offset k_offset v_offset scale.
//% set THREADS = RG * KG
// Vectors between rows in workgroup memory: odd, so that neighbouring rows lie in different banks.
//% set S = DC + 1 - DC % 2
//% set rows = "p.keys" if stage == "dkv" else "p.queries"
//% set tokens = "p.queries" if stage == "dkv" else "p.keys"
//% set ragged = CO * KG != C
var<workgroup> tile: array<vec4<f32>, {{ [(4 * RG + 4 * KG) * S, VK * C, THREADS] | max }}>;
var<workgroup> weights: array<vec4<f32>, {{ 4 * KG * (RG + 1) }}>;

fn product(a: vec4<f32>, b: vec4<f32>, sum: f32) -> f32 {
    return fma(a.w, b.w, fma(a.z, b.z, fma(a.y, b.y, fma(a.x, b.x, sum))));
}
//% macro turns(count)
//% for turn in range((count + THREADS - 1) // THREADS)
    {{ "if lane < " ~ (count - turn * THREADS) ~ "u " if (turn + 1) * THREADS > count else "" }}{
        let e = lane + {{ turn * THREADS }}u;
        {{ caller() }}
    }
//% endfor
//% endmacro
//% macro chunk(x, first, limit, count, to)
//% call turns(count * DC)
        let r = e / {{ DC }}u;
        tile[{{ to * S }}u + r * {{ S }}u + e % {{ DC }}u] = {{ x }}_at4({{ x }}_first + min({{ first }} + r, {{ limit }} - 1u) * {{ x }}_step + column + e % {{ DC }}u);
//% endcall
//% endmacro
// s_i_j = the product of row i of a and token j of x.
//% macro scores(s, a, x)
    //% for i in range(4)
    //% for j in range(4)
    var {{ s }}_{{ i }}_{{ j }} = 0.0;
    //% endfor
    //% endfor
    for (var column = 0u; column < {{ C }}u; column += {{ DC }}u) {
        workgroupBarrier();
        {{ chunk(a, "row_tile", rows, 4 * RG, 0) }}
        {{ chunk(x, "base", tokens, 4 * KG, 4 * RG) }}
        workgroupBarrier();
        //% for c in range(DC)
        {
            //% for i in range(4)
            let a{{ i }} = tile[row_at + {{ i * S + c }}u];
            let x{{ i }} = tile[token_at + {{ (4 * RG + KG * i) * S + c }}u];
            //% endfor
            //% for i in range(4)
            //% for j in range(4)
            {{ s }}_{{ i }}_{{ j }} = product(a{{ i }}, x{{ j }}, {{ s }}_{{ i }}_{{ j }});
            //% endfor
            //% endfor
        }
        //% endfor
    }
//% endmacro
// g_i_j += the sum over the tile's tokens of weight times vector group + KG * j of x.
//% macro gather(g, x)
    for (var token = 0u; token < {{ 4 * KG }}u; token += {{ VK }}u) {
        workgroupBarrier();
        //% call turns(VK * C)
        tile[e] = {{ x }}_at4({{ x }}_first + min(base + token + e / {{ C }}u, {{ tokens }} - 1u) * {{ x }}_step + e % {{ C }}u);
        //% endcall
        workgroupBarrier();
        for (var k = 0u; k < {{ VK }}u; k += 4u) {
            let weight_at = (token + k) * {{ RG + 1 }}u + row_group;
            //% for kk in range(4)
            {
                let weight = weights[weight_at + {{ kk * (RG + 1) }}u];
                //% for j in range(CO)
                let v{{ j }} = tile[(k + {{ kk }}u) * {{ C }}u + column{{ j }}];
                //% for i in range(4)
                {{ g }}_{{ i }}_{{ j }} += weight[{{ i }}] * v{{ j }};
                //% endfor
                //% endfor
            }
            //% endfor
        }
    }
//% endmacro
//% macro keep(values)
    //% for j in range(4)
    weights[(token_group + {{ KG * j }}u) * {{ RG + 1 }}u + row_group] = {{ values }}_{{ j }};
    //% endfor
//% endmacro
//% macro zeros(g)
    //% for i in range(4)
    //% for j in range(CO)
    var {{ g }}_{{ i }}_{{ j }} = vec4<f32>();
    //% endfor
    //% endfor
//% endmacro
//% macro write(out, g, factor)
    //% for i in range(4)
    if row_{{ i }} < {{ rows }} {
        let first = ((sample * {{ rows }} + row_{{ i }}) * p.heads + head) * {{ C }}u;
        //% for j in range(CO)
        {{ "if token_group < " ~ (C - KG * j) ~ "u " if ragged else "" }}{ {{ out }}_put4(first + column{{ j }}, {{ g }}_{{ i }}_{{ j }}{{ factor ~ "[" ~ i ~ "]" if factor else "" }}); }
        //% endfor
    }
    //% endfor
//% endmacro
// Which of token j's scores count, row by row.
//% macro seen(j)
vec4<bool>({% for i in range(4) %}token_{{ j }} < {{ tokens }}{{ ("" if not causal else " && row_" ~ i ~ " <= token_" ~ j if stage == "dkv" else " && token_" ~ j ~ " <= row_" ~ i) }}{{ ", " if i < 3 else "" }}{% endfor %})
//% endmacro

@compute @workgroup_size({{ THREADS }})
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) nw: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let workgroup = linear_workgroup(w, nw);
    if workgroup >= p.workgroups { return; }
    let tiles = ({{ rows }} + {{ 4 * RG - 1 }}u) / {{ 4 * RG }}u;
    let head_of = workgroup / tiles;
    let row_tile = (workgroup - head_of * tiles) * {{ 4 * RG }}u;
    let sample = head_of / p.heads;
    let head = head_of - sample * p.heads;
    let row_group = lane / {{ KG }}u;
    let token_group = lane % {{ KG }}u;
    let row_at = row_group * {{ 4 * S }}u;
    let token_at = token_group * {{ S }}u;
    //% for j in range(CO)
    let column{{ j }} = {{ "min(token_group + " ~ KG * j ~ "u, " ~ (C - 1) ~ "u)" if ragged else "token_group + " ~ KG * j ~ "u" }};
    //% endfor
    //% for x in ["q", "k", "v"]
    let {{ x }}_step = p.{{ x }}_width / 4u;
    let {{ x }}_first = sample * {{ "p.queries" if x == "q" else "p.keys" }} * {{ x }}_step + p.{{ x }}_offset / 4u + head * {{ C }}u;
    //% endfor
    //% if stage != "forward"
    let dout_step = p.heads * {{ C }}u;
    let dout_first = sample * p.queries * dout_step + head * {{ C }}u;
    //% endif
    let statistics = (sample * p.heads + head) * p.queries;
    //% for i in range(4)
    let row_{{ i }} = row_tile + row_group * 4u + {{ i }}u;
    //% endfor
    // Exponentials are powers of two.
    let scale = p.scale * 1.44269504;
    //% if stage == "forward"
    var largest = vec4<f32>(-3.0e38);
    var total = vec4<f32>();
    {{ zeros("o") }}
    //% elif stage == "dq"
    {{ zeros("dq") }}
    //% for name in ["lse", "delta"]
    let {{ name }} = vec4<f32>(
        //% for i in range(4)
        {{ name }}_at(statistics + min(row_{{ i }}, p.queries - 1u)),
        //% endfor
    );
    //% endfor
    //% else
    {{ zeros("dk") }}
    {{ zeros("dv") }}
    //% endif
    //% if causal and stage == "dkv"
    let start = row_tile / {{ 4 * KG }}u * {{ 4 * KG }}u;
    //% else
    let start = 0u;
    //% endif
    //% if causal and stage != "dkv"
    let end = min(row_tile + {{ 4 * RG }}u, p.keys);
    //% else
    let end = {{ tokens }};
    //% endif
    for (var base = start; base < end; base += {{ 4 * KG }}u) {
        //% for j in range(4)
        let token_{{ j }} = base + token_group + {{ KG * j }}u;
        //% endfor
        //% if stage == "forward"
        {{ scores("s", "q", "k") }}
        var most = vec4<f32>(-3.0e38);
        //% for j in range(4)
        let s_{{ j }} = select(vec4<f32>(-3.0e38), scale * vec4<f32>(s_0_{{ j }}, s_1_{{ j }}, s_2_{{ j }}, s_3_{{ j }}), {{ seen(j) }});
        most = max(most, s_{{ j }});
        //% endfor
        workgroupBarrier();
        tile[lane] = most;
        workgroupBarrier();
        most = largest;
        //% for k in range(KG)
        most = max(most, tile[row_group * {{ KG }}u + {{ k }}u]);
        //% endfor
        let shrink = exp2(largest - most);
        largest = most;
        total *= shrink;
        //% for i in range(4)
        //% for j in range(CO)
        o_{{ i }}_{{ j }} *= shrink[{{ i }}];
        //% endfor
        //% endfor
        //% for j in range(4)
        let e_{{ j }} = exp2(s_{{ j }} - most);
        total += e_{{ j }};
        //% endfor
        {{ keep("e") }}
        {{ gather("o", "v") }}
        //% else
        {{ scores("s", "k" if stage == "dkv" else "q", "q" if stage == "dkv" else "k") }}
        {{ scores("t", "v" if stage == "dkv" else "dout", "dout" if stage == "dkv" else "v") }}
        //% for j in range(4)
        //% set of = "_" ~ j if stage == "dkv" else ""
        //% if stage == "dkv"
        let lse_{{ j }} = lse_at(statistics + min(token_{{ j }}, p.queries - 1u));
        let delta_{{ j }} = delta_at(statistics + min(token_{{ j }}, p.queries - 1u));
        //% endif
        let e_{{ j }} = select(
            vec4<f32>(),
            exp2(scale * vec4<f32>(s_0_{{ j }}, s_1_{{ j }}, s_2_{{ j }}, s_3_{{ j }}) - 1.44269504 * lse{{ of }}),
            {{ seen(j) }},
        );
        let ds_{{ j }} = p.scale * e_{{ j }} * (vec4<f32>(t_0_{{ j }}, t_1_{{ j }}, t_2_{{ j }}, t_3_{{ j }}) - delta{{ of }});
        //% endfor
        //% if stage == "dkv"
        {{ keep("e") }}
        {{ gather("dv", "dout") }}
        workgroupBarrier();
        {{ keep("ds") }}
        {{ gather("dk", "q") }}
        //% else
        {{ keep("ds") }}
        {{ gather("dq", "k") }}
        //% endif
        //% endif
    }
    //% if stage == "forward"
    workgroupBarrier();
    tile[lane] = total;
    workgroupBarrier();
    total = vec4<f32>();
    //% for k in range(KG)
    total += tile[row_group * {{ KG }}u + {{ k }}u];
    //% endfor
    let share = 1.0 / total;
    {{ write("out", "o", " * share") }}
    //% for i in range(4)
    if token_group == 0u && row_{{ i }} < p.queries {
        lse_put(statistics + row_{{ i }}, (largest[{{ i }}] + log2(total[{{ i }}])) * 0.69314718);
    }
    //% endfor
    //% elif stage == "dq"
    {{ write("dq", "dq", "") }}
    //% else
    {{ write("dk", "dk", "") }}
    {{ write("dv", "dv", "") }}
    //% endif
}

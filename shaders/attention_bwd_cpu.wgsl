// Attention backward for software drivers. Values: stage W ROWS BLOCK SG D causal.
// delta: sum of o * dout per query. dq: ROWS queries a thread, over keys. dkv: ROWS keys a thread, over queries; the other
// side is taken BLOCK tokens at a time. SG as in attention_cpu (not for delta).
// Uniforms: threads (with SG: workgroups) turns (ROWS, for a loop that no compiler unrolls) heads queries keys scale.
//% set SG = SG if SG is defined and stage != "delta" else 0
//% set BLOCK = BLOCK if BLOCK is defined else (4 if SG else 1)
//% set E = "vec4<f32>" if W == 4 else "f32"
//% set at = "_at4" if W == 4 else "_at"
//% set put = "_put4" if W == 4 else "_put"
//% set C = D // W
//% set parts = (BLOCK * C + SG - 1) // SG if SG else BLOCK * C
//% set tokens = "p.keys" if stage == "dkv" else "p.queries"
//% set others = "p.queries" if stage == "dkv" else "p.keys"
//% set mine = ["k", "v"] if stage == "dkv" else ["q", "dout"]
//% set theirs = ["q", "dout"] if stage == "dkv" else ["k", "v"]
fn product(a: {{ E }}, b: {{ E }}) -> f32 {
    //% if W == 4
    return dot(a, b);
    //% else
    return a * b;
    //% endif
}
@compute @workgroup_size({{ SG or 8 }})
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) nw: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    //% if SG
    let thread = linear_workgroup(w, nw);
    //% else
    let thread = linear_workgroup(w, nw) * 8u + lane;
    //% endif
    if thread >= p.threads { return; }
    //% set span = ROWS * ([SG, 1] | max)
    let tiles = ({{ tokens }} + {{ span - 1 }}u) / {{ span }}u;
    let head_of = thread / tiles;
    let group_first = (thread - head_of * tiles) * {{ span }}u;
    let first = group_first{{ " + lane * " ~ ROWS ~ "u" if SG else "" }};
    let sample = head_of / p.heads;
    let head = head_of - sample * p.heads;
    let statistics = (sample * p.heads + head) * p.queries;
    let step = p.heads * {{ C }}u;
    //% for r in range(ROWS)
    let t{{ r }} = min(first + {{ r }}u, {{ tokens }} - 1u);
    //% endfor
    //% if stage == "delta"
    let b0 = ((sample * {{ tokens }} + t0) * p.heads + head) * {{ C }}u;
    var sum = 0.0;
    for (var c = 0u; c < {{ C }}u; c++) { sum += product(o{{ at }}(b0 + c), dout{{ at }}(b0 + c)); }
    delta_put(statistics + t0, sum);
    //% else
    // This thread's tokens: x and y are k and v, or q and dout; g and h the gradients (of x and, for keys, of y).
    //% if not SG
    // A driver without subgroups compiles fast, and reads what never changes faster than what moves up.
    //% endif
    //% for r in range(ROWS)
    //% if stage == "dq"
    let lse{{ r }} = lse_at(statistics + t{{ r }});
    let delta{{ r }} = delta_at(statistics + t{{ r }});
    //% endif
    //% if not SG
    let from{{ r }} = ((sample * {{ tokens }} + t{{ r }}) * p.heads + head) * {{ C }}u;
    //% endif
    //% for c in range(C)
    //% if SG
    var x{{ r }}_{{ c }} = {{ E }}(0.0);
    var y{{ r }}_{{ c }} = {{ E }}(0.0);
    //% else
    let x{{ r }}_{{ c }} = {{ mine[0] }}{{ at }}(from{{ r }} + {{ c }}u);
    let y{{ r }}_{{ c }} = {{ mine[1] }}{{ at }}(from{{ r }} + {{ c }}u);
    //% endif
    var g{{ r }}_{{ c }} = {{ E }}(0.0);
    //% if stage == "dkv"
    var h{{ r }}_{{ c }} = {{ E }}(0.0);
    //% endif
    //% endfor
    //% endfor
    //% if SG
    //% if ROWS > 1
    for (var r = 0u; r < p.turns; r++) {
    //% else
    {
        let r = 0u;
    //% endif
        let from_ = ((sample * {{ tokens }} + min(first + r, {{ tokens }} - 1u)) * p.heads + head) * {{ C }}u;
        //% for c in range(C)
        //% for r in range(ROWS - 1)
        x{{ r }}_{{ c }} = x{{ r + 1 }}_{{ c }};
        y{{ r }}_{{ c }} = y{{ r + 1 }}_{{ c }};
        //% endfor
        x{{ ROWS - 1 }}_{{ c }} = {{ mine[0] }}{{ at }}(from_ + {{ c }}u);
        y{{ ROWS - 1 }}_{{ c }} = {{ mine[1] }}{{ at }}(from_ + {{ c }}u);
        //% endfor
    }
    //% for i in range(parts)
    let part{{ i }} = min(lane + {{ i * SG }}u, {{ BLOCK * C - 1 }}u);
    let token{{ i }} = part{{ i }} / {{ C }}u;
    let column{{ i }} = part{{ i }} - token{{ i }} * {{ C }}u;
    //% endfor
    //% endif
    let theirs = (sample * {{ others }} * p.heads + head) * {{ C }}u;
    //% if causal and stage == "dkv"
    let start = group_first;
    let end = p.queries;
    //% elif causal
    let start = 0u;
    let end = min(group_first + {{ span }}u, p.keys);
    //% else
    let start = 0u;
    let end = {{ others }};
    //% endif
    for (var other = start; other < end; other += {{ BLOCK }}u) {
        //% for i in range(parts)
        //% if SG
        let from{{ i }} = theirs + min(other + token{{ i }}, {{ others }} - 1u) * step + column{{ i }};
        //% else
        let from{{ i }} = theirs + min(other + {{ i // C }}u, {{ others }} - 1u) * step + {{ i % C }}u;
        //% endif
        let a{{ i }} = {{ theirs[0] }}{{ at }}(from{{ i }});
        let d{{ i }} = {{ theirs[1] }}{{ at }}(from{{ i }});
        //% endfor
        //% if stage == "dkv"
        //% if SG
        // A block has at most as many queries as the subgroup threads.
        let statistic = statistics + min(other + lane, p.queries - 1u);
        let lse_part = lse_at(statistic);
        let delta_part = delta_at(statistic);
        //% endif
        //% for kk in range(BLOCK)
        //% if SG
        let lse{{ kk }} = subgroupBroadcast(lse_part, {{ kk }}u);
        let delta{{ kk }} = subgroupBroadcast(delta_part, {{ kk }}u);
        //% else
        let lse{{ kk }} = lse_at(statistics + min(other + {{ kk }}u, p.queries - 1u));
        let delta{{ kk }} = delta_at(statistics + min(other + {{ kk }}u, p.queries - 1u));
        //% endif
        //% endfor
        //% endif
        //% for kk in range(BLOCK)
        //% for r in range(ROWS)
        var s{{ r }}_{{ kk }} = 0.0;
        var z{{ r }}_{{ kk }} = 0.0;
        //% endfor
        //% for c in range(C)
        {
            //% set i = kk * C + c
            let a = {{ "subgroupBroadcast(a" ~ (i // SG) ~ ", " ~ (i % SG) ~ "u)" if SG else "a" ~ i }};
            let d = {{ "subgroupBroadcast(d" ~ (i // SG) ~ ", " ~ (i % SG) ~ "u)" if SG else "d" ~ i }};
            //% for r in range(ROWS)
            s{{ r }}_{{ kk }} += product(x{{ r }}_{{ c }}, a);
            z{{ r }}_{{ kk }} += product(y{{ r }}_{{ c }}, d);
            //% endfor
        }
        //% endfor
        //% for r in range(ROWS)
        {
            //% if causal
            let seen = (other + {{ kk }}u < {{ others }}) & ({{ "other + " ~ kk ~ "u >= t" ~ r if stage == "dkv" else "other + " ~ kk ~ "u <= t" ~ r }});
            //% else
            let seen = other + {{ kk }}u < {{ others }};
            //% endif
            //% set of = kk if stage == "dkv" else r
            let e = select(0.0, exp(p.scale * s{{ r }}_{{ kk }} - lse{{ of }}), seen);
            s{{ r }}_{{ kk }} = e;
            z{{ r }}_{{ kk }} = e * (z{{ r }}_{{ kk }} - delta{{ of }}) * p.scale;
        }
        //% endfor
        //% endfor
        //% for c in range(C)
        {
            //% for kk in range(BLOCK)
            //% set i = kk * C + c
            let a_{{ kk }} = {{ "subgroupBroadcast(a" ~ (i // SG) ~ ", " ~ (i % SG) ~ "u)" if SG else "a" ~ i }};
            //% if stage == "dkv"
            let d_{{ kk }} = {{ "subgroupBroadcast(d" ~ (i // SG) ~ ", " ~ (i % SG) ~ "u)" if SG else "d" ~ i }};
            //% endif
            //% endfor
            //% for r in range(ROWS)
            //% for kk in range(BLOCK)
            g{{ r }}_{{ c }} += z{{ r }}_{{ kk }} * a_{{ kk }};
            //% if stage == "dkv"
            h{{ r }}_{{ c }} += s{{ r }}_{{ kk }} * d_{{ kk }};
            //% endif
            //% endfor
            //% endfor
        }
        //% endfor
    }
    let last = min(first + {{ ROWS }}u, {{ tokens }});
    for (var t = first; t < last; t++) {
        let to = ((sample * {{ tokens }} + t) * p.heads + head) * {{ C }}u;
        //% for c in range(C)
        {{ "dk" if stage == "dkv" else "dq" }}{{ put }}(to + {{ c }}u, g0_{{ c }});
        //% if stage == "dkv"
        dv{{ put }}(to + {{ c }}u, h0_{{ c }});
        //% endif
        //% for r in range(ROWS - 1)
        g{{ r }}_{{ c }} = g{{ r + 1 }}_{{ c }};
        //% if stage == "dkv"
        h{{ r }}_{{ c }} = h{{ r + 1 }}_{{ c }};
        //% endif
        //% endfor
        //% endfor
    }
    //% endif
}

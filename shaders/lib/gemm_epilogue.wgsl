    // Epilogue of a TM x TN register tile: c{i}_{j} at rows m_first + i, columns n{j}. A loop handles a few rows and then
    // moves the others up: unrolled over the tile, this would be most of what a driver compiles (a dozen times the K loop).
    //% set cols = (TN // 2) if geglu else TN
    //% set block = [1, 32 // TN] | max
    //% set block = block if TM % block == 0 else 1
    //% if lora
    for (var r = 0u; r < p.rank; r++) {
        //% for j in range(TN)
        let u{{ j }} = up_at(n{{ j }} * p.rank + r);
        //% endfor
        //% for i in range(loads)
        let g{{ i }} = p.lora_scale * hidden_at(from{{ i }} * p.rank + r);
        //% endfor
        //% for i in range(TM)
        {
            let h = {{ "subgroupBroadcast(g" ~ (i // SG) ~ ", " ~ (i % SG) ~ "u)" if SG else "g" ~ i }};
            //% for j in range(TN)
            c{{ i }}_{{ j }} += h * u{{ j }};
            //% endfor
        }
        //% endfor
    }
    //% endif
    //% if bias
    //% for j in range(TN)
    let bias{{ j }} = bias_at(n{{ j }});
    //% endfor
    //% endif
    let m_end = min(m_first + {{ TM }}u, p.m);
    for (var top = m_first; top < m_end; top += {{ block }}u) {
        //% for i in range([block, TM] | min)
        if top + {{ i }}u < m_end {
            let m = top + {{ i }}u;
            let row = batch * p.out_batch + m * p.n;
            //% if add == "sample"
            let sample = (m / p.rows_per_sample) * p.add_stride + p.add_offset;
            //% endif
            //% for j in range(TN)
            var v{{ j }} = p.alpha * c{{ i }}_{{ j }}{{ " + bias" ~ j if bias else "" }};
            //% if add == "full" and not out_vec
            v{{ j }} += add_at(row + n{{ j }});
            //% elif add == "sample"
            v{{ j }} += add_at(sample + n{{ j }});
            //% endif
            //% if activation and not (add == "full" and out_vec)
            v{{ j }} = {{ activation }}(v{{ j }});
            //% endif
            //% endfor
            //% if geglu
            //% for j in range(cols)
            if n_first + {{ j }}u < p.n { out_put(row + n{{ j }}, v{{ j }} * gelu(v{{ j + cols }})); }
            //% endfor
            //% elif out_vec
            //% for v in range(TN // 4)
            //% set j = v * 4
            if n_first + {{ j }}u < p.n {
                var whole = vec4<f32>(v{{ j }}, v{{ j + 1 }}, v{{ j + 2 }}, v{{ j + 3 }});
                //% if add == "full"
                whole += add_at4((row + n{{ j }}) >> 2u);
                //% if activation
                whole = vec4<f32>({{ activation }}(whole.x), {{ activation }}(whole.y), {{ activation }}(whole.z), {{ activation }}(whole.w));
                //% endif
                //% endif
                out_put4((row + n{{ j }}) >> 2u, whole);
            }
            //% endfor
            //% else
            //% for j in range(TN)
            if n_first + {{ j }}u < p.n { out_put(row + n{{ j }}, v{{ j }}); }
            //% endfor
            //% endif
        }
        //% endfor
        //% for i in range(TM - block)
        //% for j in range(TN)
        c{{ i }}_{{ j }} = c{{ i + block }}_{{ j }};
        //% endfor
        //% endfor
    }

            // One row m of a tile's epilogue: accumulators c{i}_{j} (or with packed_ components of c{i}_{v}) of columns
            // n{j}: groups of four, GN apart from n_first on. Columns beyond p.n are not stored. Row added of the addend.
            //% set cols = (TN // 2) if geglu else TN
            let row = batch * p.out_batch + m * p.n;
            //% for j in range(TN)
            var v{{ j }} = p.alpha * {{ "c" ~ i ~ "_" ~ (j // 4) ~ "." ~ xyzw[j % 4] if packed_ else "c" ~ i ~ "_" ~ j }} + bias{{ j }};
            //% endfor
            //% if adds and not geglu
            if p.add_rows > 0u {
                let from_ = {{ added }} * p.add_stride + p.add_offset;
                //% if add_vec
                //% for j in range(0, TN, 4)
                let add{{ j }} = add_at4((from_ + n{{ j }}) >> 2u);
                //% for s in range(4)
                v{{ j + s }} += add{{ j }}.{{ xyzw[s] }};
                //% endfor
                //% endfor
                //% else
                //% for j in range(TN)
                v{{ j }} += add_at(from_ + n{{ j }});
                //% endfor
                //% endif
            }
            //% endif
            //% if activation
            //% for j in range(TN)
            v{{ j }} = {{ activation }}(v{{ j }});
            //% endfor
            //% endif
            //% if geglu
            //% for j in range(cols)
            v{{ j }} *= gelu(v{{ j + cols }});
            //% endfor
            //% endif
            //% if out_vec
            //% for j in range(0, cols, 4)
            if n_first + {{ j // 4 * GN + j % 4 }}u < p.n { out_put4((row + n{{ j }}) >> 2u, vec4<f32>(v{{ j }}, v{{ j + 1 }}, v{{ j + 2 }}, v{{ j + 3 }})); }
            //% endfor
            //% else
            //% for j in range(cols)
            if n_first + {{ j // 4 * GN + j % 4 }}u < p.n { out_put(row + n{{ j }}, v{{ j }}); }
            //% endfor
            //% endif

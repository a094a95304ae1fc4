# bash completion for scatter-scale
_scatter_scale()
{
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}
    case $prev in
        -c|--config) compopt -o filenames; COMPREPLY=($(compgen -f -- "$cur")); return ;;
        -b|--broker) return ;;
        --global-keyprefix) return ;;
        -d|--deployment) return ;;
        -Q|--queues) return ;;
        --set) return ;;
        --lease) return ;;
        -n|--namespace) return ;;
        --kubeconfig) compopt -o filenames; COMPREPLY=($(compgen -f -- "$cur")); return ;;
        --context) return ;;
        --interval) return ;;
        --listen) return ;;
        --textfile) compopt -o filenames; COMPREPLY=($(compgen -f -- "$cur")); return ;;
        --deadline) return ;;
        --state) COMPREPLY=($(compgen -W "lease none" -- "$cur")); return ;;
        --dry-run) COMPREPLY=($(compgen -W "client server" -- "$cur")); return ;;
        --replay) compopt -o filenames; COMPREPLY=($(compgen -f -- "$cur")); return ;;
        --completion) COMPREPLY=($(compgen -W "bash zsh man" -- "$cur")); return ;;
    esac
    COMPREPLY=($(compgen -W " -c --config -b --broker --global-keyprefix -d --deployment -Q --queues --set --lease --pod-costs --without-heartbeat -n --namespace --kubeconfig --context --use-proxy --loop --interval --listen --textfile --deadline --state --dry-run --explain --check --replay --completion --version --help" -- "$cur"))
}
complete -F _scatter_scale scatter-scale

# bash completion for scatter-plan. Commands, options and their words are asked of the program itself.
_scatter_plan()
{
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} program=${COMP_WORDS[0]} help words
    if [ "$COMP_CWORD" = 1 ]; then
        words=$("$program" --help 2>/dev/null | sed -n 's/^  \([a-z]*\)  *[^ ].*/\1/p')
        COMPREPLY=($(compgen -W "$words --help --version" -- "$cur"))
        return
    fi
    case $prev in
        -A|--app) compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -f -- "$cur")); return ;;
    esac
    help=$("$program" "${COMP_WORDS[1]}" --help 2>/dev/null) || return
    if [[ $prev == -* ]]; then
        words=$(sed -n "s/^ .*$prev \([^ ]*\).*/\1/p" <<<"$help" | head -n 1)
        case $words in
            '') ;;                                       # a flag
            *[A-Z]*) return ;;                           # a value of one's own
            *) COMPREPLY=($(compgen -W "${words//|/ }" -- "$cur")); return ;;
        esac
    fi
    words=$(sed -n 's/^  \(-., \|    \)--\([a-z-]*\).*/--\2/p' <<<"$help")
    [ "${COMP_WORDS[1]}" = governor ] && words+=" show set stop start"
    COMPREPLY=($(compgen -W "$words --help" -- "$cur"))
}
complete -F _scatter_plan scatter-plan

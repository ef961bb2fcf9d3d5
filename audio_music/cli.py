"""The command `audio-music`."""

from core.cli import domain_command

main = domain_command("audio_music")

if __name__ == "__main__":
    main()
